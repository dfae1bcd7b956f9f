//! Certificates: how they are made, and how a node is given its own.

use std::path::PathBuf;

use clap::Args;

use crate::parse::{self, Hosts};

const CERTS_HELP: &str = "\
Each node needs ca.pem, its own HOST.pem and its own HOST.key, and is started at an address that ends with /tls.
A node is accepted only with a certificate of the CA for the host of its address.
The CA is made once: with ca.pem and ca.key in the directory, further certificates are made of it. It is never replaced.

Examples:
  coracle certs --host 10.0.0.1 --host 10.0.0.2 --host 10.0.0.3
  coracle certs --host a.example,10.0.0.4           one node with two names
  coracle certs --host 10.0.0.1 --force --days 90   another certificate for a node";

#[derive(Debug, Args)]
#[command(after_help = CERTS_HELP)]
pub(crate) struct CertsArgs {
    /// Where the files are, and are put
    #[arg(long, value_name = "DIRECTORY", default_value = "./certs")]
    pub(crate) dir: PathBuf,
    /// A node's host, as in its address: an IP address or a name, and others of the same node after commas
    #[arg(long = "host", required = true, value_name = "HOST[,HOST]…", value_parser = parse::hosts)]
    pub(crate) hosts: Vec<Hosts>,
    /// For how many days the certificates are valid; the CA, if it is made, is for ten years at least
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500), default_value_t = 825)]
    pub(crate) days: u32,
    /// Replace certificates and keys of these hosts
    #[arg(long)]
    pub(crate) force: bool,
}

/// What a node needs for addresses over TLS: all three, or none.
#[derive(Debug, Args)]
#[command(next_help_heading = "For addresses over TLS (coracle certs makes the files)")]
pub(crate) struct TlsArgs {
    /// The certificate of the cluster's CA
    #[arg(long, env = "CORACLE_TLS_CA", value_name = "FILE", requires_all = ["tls_cert", "tls_key"])]
    pub(crate) tls_ca: Option<PathBuf>,
    /// The node's certificate, for the host of its address
    #[arg(long, env = "CORACLE_TLS_CERT", value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's key
    #[arg(long, env = "CORACLE_TLS_KEY", value_name = "FILE", requires_all = ["tls_ca", "tls_cert"])]
    pub(crate) tls_key: Option<PathBuf>,
}
