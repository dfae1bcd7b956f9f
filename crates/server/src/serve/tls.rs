//! The certificates of a node.

use coracle::transport::tls::{Tls, TlsFiles};

use crate::{
    cli::ServeArgs,
    exit::{Code, Failure, Outcome},
};

/// Loads the certificates that the node was given, if it has a use for them.
pub(super) fn load(args: &ServeArgs) -> Outcome<Option<Tls>> {
    let (Some(ca), Some(certificate), Some(key)) = (&args.tls.tls_ca, &args.tls.tls_cert, &args.tls.tls_key) else {
        return Ok(None);
    };
    if !args.addresses.iter().chain(&args.peers).chain(&args.join).any(coracle::transport::Address::is_tls) {
        let failure = Failure::new(Code::Usage, "there are certificates, and no address over TLS");
        return Err(failure.hint("Addresses over TLS end with /tls, like /ip4/10.0.0.1/tcp/9490/tls."));
    }
    let files = TlsFiles { ca: ca.clone(), certificate: certificate.clone(), key: key.clone() };
    match Tls::load(&files) {
        Ok(tls) => Ok(Some(tls)),
        Err(error) => Err(Failure::new(Code::Configuration, error.to_string())
            .hint("`coracle certs` makes a CA and certificates of it.")),
    }
}
