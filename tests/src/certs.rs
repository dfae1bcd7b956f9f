//! Certificates for nodes, as an operator makes and hands them out.

use std::path::Path;

use crate::{cli::coracle, node::Node};

/// Makes certificates of the CA in this directory, and the CA if it is not there.
///
/// # Panics
/// When it cannot.
pub fn make(folder: &Path, hosts: &[&str]) {
    let mut arguments = vec!["certs", "--dir", folder.to_str().unwrap()];
    hosts.iter().for_each(|host| arguments.extend(["--host", host]));
    let made = coracle(arguments).expect(0);
    let line = format!("/tls --tls-ca {}", folder.join("ca.pem").display());
    assert!(made.stdout.contains(&line), "it says how they are used: {}", made.stdout);
}

/// Gives a node the certificate for `host` in this directory.
pub fn equip(node: &mut Node, folder: &Path, host: &str) {
    let file = |name: String| folder.join(name).display().to_string();
    node.extra = [
        ("--tls-ca", file("ca.pem".to_owned())),
        ("--tls-cert", file(format!("{host}.pem"))),
        ("--tls-key", file(format!("{host}.key"))),
    ]
    .into_iter()
    .flat_map(|(name, file)| [name.to_owned(), file])
    .collect();
}
