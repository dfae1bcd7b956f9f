//! `coracle certs`: a CA, and certificates of it for nodes.

mod ca;
mod files;
#[cfg(test)]
mod tests;

use std::path::Path;

use coracle::transport::tls::{Tls, TlsFiles};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};

use self::{ca::Ca, files::Staged};
use crate::{
    cli::CertsArgs,
    exit::{Code, Failure, Outcome},
    out,
    parse::Hosts,
};

/// Clocks of nodes differ.
const AHEAD_DAYS: u32 = 1;

pub(crate) fn run(args: &CertsArgs) -> Outcome {
    check(args)?;
    files::make_folder(&args.dir)?;
    let mut staged = Staged::default();
    let ca = Ca::open_or_make(&args.dir, args.days, &mut staged)?;
    args.hosts.iter().try_for_each(|hosts| issue(args, &ca, hosts, &mut staged))?;
    staged.publish()?;
    tell(args, ca.is_new)
}

/// What can be seen to be wrong before anything is made.
fn check(args: &CertsArgs) -> Outcome {
    for (at, hosts) in args.hosts.iter().enumerate() {
        let name = hosts.file_name();
        if name == ca::NAME {
            let text = format!("a host cannot be called \"{name}\": its files would be those of the CA");
            return Err(Failure::new(Code::Usage, text));
        }
        if args.hosts[..at].iter().any(|earlier| earlier.file_name() == name) {
            return Err(Failure::new(Code::Usage, format!("--host {name} is given twice")));
        }
        let files = files_of(&args.dir, hosts);
        if let Some(file) = [files.certificate, files.key].iter().find(|file| file.exists() && !args.force) {
            let failure = Failure::new(Code::Refused, format!("{} exists already", file.display()));
            return Err(failure.hint("Say --force to replace it, or choose another directory with --dir."));
        }
    }
    Ok(())
}

fn files_of(folder: &Path, hosts: &Hosts) -> TlsFiles {
    let name = hosts.file_name();
    TlsFiles {
        ca: folder.join(ca::CERTIFICATE),
        certificate: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}.key")),
    }
}

/// Makes one node's certificate and key, and checks that a node will take them.
fn issue(args: &CertsArgs, ca: &Ca, hosts: &Hosts, staged: &mut Staged) -> Outcome {
    let made = || {
        let mut params = CertificateParams::new(hosts.0.clone())?;
        params.distinguished_name.push(DnType::CommonName, hosts.0[0].clone());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        ca::in_force(&mut params, args.days);
        let key = KeyPair::generate()?;
        Ok::<_, rcgen::Error>((params.signed_by(&key, &ca.issuer)?.pem(), key.serialize_pem()))
    };
    let (certificate, key) = made().map_err(|error| not_made(&hosts.0[0], &error))?;
    let files = files_of(&args.dir, hosts);
    let key = staged.write_secret(&files.key, &key)?;
    let certificate = staged.write(&files.certificate, &certificate)?;
    match Tls::load(&TlsFiles { ca: ca.file.clone(), certificate, key }) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(Code::Configuration, format!("what was made is of no use: {error}"))),
    }
}

fn not_made(what: &str, error: &rcgen::Error) -> Failure {
    Failure::new(Code::Internal, format!("the certificate for {what} could not be made: {error}"))
}

fn tell(args: &CertsArgs, is_new: bool) -> Outcome {
    let folder = args.dir.display();
    if is_new {
        out::line(format!("made {folder}/{}: the CA; every node needs a copy", ca::CERTIFICATE))?;
        out::line(format!(
            "made {folder}/{}: the CA's key; no node needs it, keep it where only you can read it",
            ca::KEY
        ))?;
    }
    let made = || args.hosts.iter().map(|hosts| (files_of(&args.dir, hosts), hosts));
    for (files, hosts) in made() {
        let (certificate, key) = (files.certificate.display(), files.key.display());
        out::line(format!("made {certificate} and {key}: for {}, {} days", hosts.0.join(" and "), args.days))?;
    }
    for (files, hosts) in made() {
        out::line(format!(
            "coracle serve {} --tls-ca {} --tls-cert {} --tls-key {}",
            hosts.address(),
            files.ca.display(),
            files.certificate.display(),
            files.key.display()
        ))?;
    }
    Ok(())
}
