//! The CA of a cluster: made once, and found again.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::{AHEAD_DAYS, files::Staged, not_made};
use crate::exit::{Code, Failure, Outcome};

/// What its files are called, without their endings.
pub(super) const NAME: &str = "ca";
pub(super) const CERTIFICATE: &str = "ca.pem";
pub(super) const KEY: &str = "ca.key";
/// To replace a CA is more work than to replace a node's certificate.
const DAYS: u32 = 3650;
const DAY: Duration = Duration::from_secs(86_400);

pub(super) struct Ca {
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// Where its certificate is for now.
    pub(super) file: PathBuf,
    pub(super) is_new: bool,
}

impl Ca {
    /// The CA in this directory; it is made if there is none. One that is there is never replaced: nodes with its certificates would be strangers to those with others.
    pub(super) fn open_or_make(folder: &Path, days: u32, staged: &mut Staged) -> Outcome<Ca> {
        let (certificate, key) = (read(&folder.join(CERTIFICATE))?, read(&folder.join(KEY))?);
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ca::of(folder, &certificate, &key),
            (None, None) => Ca::make(folder, days, staged),
            (Some(_), None) => Err(half(folder, CERTIFICATE, KEY)),
            (None, Some(_)) => Err(half(folder, KEY, CERTIFICATE)),
        }
    }

    fn of(folder: &Path, certificate: &str, key: &str) -> Outcome<Ca> {
        let unusable = |name: &str, error: rcgen::Error| {
            let file = folder.join(name);
            Failure::new(Code::Configuration, format!("{} cannot be used as a CA's: {error}", file.display()))
        };
        let key = KeyPair::from_pem(key).map_err(|error| unusable(KEY, error))?;
        let issuer = Issuer::from_ca_cert_pem(certificate, key).map_err(|error| unusable(CERTIFICATE, error))?;
        Ok(Ca { issuer, file: folder.join(CERTIFICATE), is_new: false })
    }

    fn make(folder: &Path, days: u32, staged: &mut Staged) -> Outcome<Ca> {
        let made = || {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::default();
            // Every CA has a name of its own, so that a certificate of another one is told from a forged one of this.
            let number: String = key.public_key_raw().iter().rev().take(4).map(|byte| format!("{byte:02x}")).collect();
            params.distinguished_name.push(DnType::CommonName, format!("Coracle CA {number}"));
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            in_force(&mut params, days.max(DAYS));
            let certificate = params.self_signed(&key)?.pem();
            let secret = key.serialize_pem();
            Ok::<_, rcgen::Error>((Issuer::new(params, key), certificate, secret))
        };
        let (issuer, certificate, secret) = made().map_err(|error| not_made("the CA", &error))?;
        staged.write_secret(&folder.join(KEY), &secret)?;
        let file = staged.write(&folder.join(CERTIFICATE), &certificate)?;
        Ok(Ca { issuer, file, is_new: true })
    }
}

/// From a moment ago, for so many days.
pub(super) fn in_force(params: &mut CertificateParams, days: u32) {
    let now = SystemTime::now();
    params.not_before = (now - DAY * AHEAD_DAYS).into();
    params.not_after = (now + DAY * days).into();
}

fn read(file: &Path) -> Outcome<Option<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::io(format_args!("could not read {}", file.display()), &error)),
    }
}

fn half(folder: &Path, there: &str, missing: &str) -> Failure {
    let text = format!("there is {there} in {}, and no {missing}", folder.display());
    Failure::new(Code::Configuration, text)
        .hint("Bring the missing file back, or choose another directory with --dir for another CA.")
}
