//! How the nodes talk to each other.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

/// What nodes speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Transport {
    /// MessagePack over TCP
    Tcp,
    /// gRPC
    Grpc,
}

/// What nodes speak, and whether in secret.
pub(super) struct Link {
    transport: Transport,
    /// Where the certificates are.
    certificates: Option<PathBuf>,
}

const HOST: &str = "127.0.0.1";

impl Link {
    pub(super) fn plain(transport: Transport) -> Link {
        Link { transport, certificates: None }
    }

    /// Makes certificates in `folder`, or takes those that are there.
    pub(super) fn over_tls(transport: Transport, folder: &Path, binary: &Path) -> Result<Link> {
        let certificates = folder.join("certs");
        if !certificates.join("ca.pem").exists() {
            let mut command = Command::new(binary);
            command.arg("certs").arg("--dir").arg(&certificates).args(["--host", HOST]).stdin(Stdio::null());
            let output = command.output().context("cannot run coracle certs")?;
            if !output.status.success() {
                bail!("coracle certs failed with {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr));
            }
        }
        Ok(Link { transport, certificates: Some(certificates) })
    }

    /// Where a node is that listens on a port of loopback.
    pub(super) fn address(&self, port: u16) -> String {
        let tls = if self.certificates.is_some() { "/tls" } else { "" };
        let http = if self.transport == Transport::Grpc { "/http" } else { "" };
        format!("/ip4/{HOST}/tcp/{port}{tls}{http}")
    }

    /// What `coracle serve` needs to be told.
    pub(super) fn arguments(&self) -> Vec<String> {
        let Some(certificates) = &self.certificates else { return Vec::new() };
        let files = [
            ("--tls-ca", "ca.pem".to_owned()),
            ("--tls-cert", format!("{HOST}.pem")),
            ("--tls-key", format!("{HOST}.key")),
        ];
        let path = |file: &str| certificates.join(file).display().to_string();
        files.iter().flat_map(|(option, file)| [(*option).to_owned(), path(file)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_say_what_is_spoken() {
        let secure = |transport| Link { transport, certificates: Some(PathBuf::from("c")) };
        assert_eq!(Link::plain(Transport::Tcp).address(1), "/ip4/127.0.0.1/tcp/1");
        assert_eq!(Link::plain(Transport::Grpc).address(1), "/ip4/127.0.0.1/tcp/1/http");
        assert_eq!(secure(Transport::Tcp).address(1), "/ip4/127.0.0.1/tcp/1/tls");
        assert_eq!(secure(Transport::Grpc).address(1), "/ip4/127.0.0.1/tcp/1/tls/http");
        assert_eq!(secure(Transport::Tcp).arguments()[..2], ["--tls-ca", "c/ca.pem"]);
        assert!(Link::plain(Transport::Tcp).arguments().is_empty());
    }
}
