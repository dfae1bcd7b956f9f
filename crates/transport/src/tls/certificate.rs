//! What a certificate says: for whom it is, and until when.

use std::{
    fmt,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::TlsStream;
use webpki::{EndEntityCert, KeyUsage};

/// How many names of a certificate are shown.
const NAMES_SHOWN_MAX: usize = 8;

/// The certificate that a side of a connection shows; it was verified to be of the CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate(CertificateDer<'static>);

impl PeerCertificate {
    /// The first of a chain; an empty one is for nobody.
    pub(crate) fn new(chain: &[CertificateDer<'_>]) -> PeerCertificate {
        PeerCertificate(chain.first().map_or_else(|| Vec::new().into(), |first| first.clone().into_owned()))
    }

    /// The one that was shown on this stream; `None` when there was none, which [`Tls`](crate::tls::Tls) does not let pass.
    pub fn of<S>(stream: &TlsStream<S>) -> Option<PeerCertificate> {
        stream.get_ref().1.peer_certificates().map(PeerCertificate::new)
    }

    /// The names and IP addresses that it is for, some of them if there are many.
    pub fn names(&self) -> Vec<String> {
        // No certificate is for this name, and what does not fit is told with what would.
        let nobody = ServerName::try_from("nobody.invalid").ok();
        match (EndEntityCert::try_from(&self.0), nobody) {
            (Ok(certificate), Some(nobody)) => match certificate.verify_is_valid_for_subject_name(&nobody) {
                Err(webpki::Error::CertNotValidForName(context)) => presented(&context.presented),
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }
}

/// Whether the certificate is for one of these hosts, names or IP addresses.
pub fn names_fit(certificate: &PeerCertificate, hosts: &[impl AsRef<str>]) -> bool {
    let Ok(certificate) = EndEntityCert::try_from(&certificate.0) else { return false };
    let fits = |host: &str| {
        ServerName::try_from(host).is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok())
    };
    hosts.iter().any(|host| fits(host.as_ref()))
}

/// Names as the verifier shows them, as people write them.
pub(crate) fn presented(names: &[String]) -> Vec<String> {
    let plain = |name: &String| {
        let inner = ["DnsName(\"", "IpAddress("].iter().find_map(|prefix| name.strip_prefix(prefix));
        inner.map_or(name.as_str(), |inner| inner.trim_end_matches(')').trim_end_matches('"')).to_owned()
    };
    names.iter().take(NAMES_SHOWN_MAX).map(plain).collect()
}

/// When a certificate ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The file that it is in.
    pub file: PathBuf,
    /// Its last second.
    pub not_after: SystemTime,
}

impl Expiry {
    pub(crate) fn is_within(&self, time: Duration) -> bool {
        SystemTime::now().checked_add(time).is_none_or(|limit| self.not_after <= limit)
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
        write!(f, "the certificate in {} expires on {}", self.file.display(), date(since.as_secs()))
    }
}

/// From when, and until when, a certificate is in force, in seconds since 1970; `None` when it is damaged.
pub(crate) fn validity(certificate: &CertificateDer<'_>) -> Option<(u64, u64)> {
    // The verifier says which limit is crossed, before it looks at anything else.
    let at = |seconds: u64| {
        let certificate = EndEntityCert::try_from(certificate).ok()?;
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        certificate.verify_for_usage(&[], &[], &[], time, KeyUsage::server_auth(), None, None).err()
    };
    let not_before = match at(0)? {
        webpki::Error::CertNotValidYet { not_before, .. } => not_before.as_secs(),
        _ => 0,
    };
    match at(u64::MAX)? {
        webpki::Error::CertExpired { not_after, .. } => Some((not_before, not_after.as_secs())),
        _ => None,
    }
}

/// Seconds since 1970 as a date and time.
pub(crate) fn date(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", second / 3600, second % 3600 / 60)
}

/// Days since 1970 in the Gregorian calendar. Counts from March on, so that a leap day is a year's last; 146,097 days are 400 years.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days.saturating_add(719_468);
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (951_868_800, "2000-03-01 00:00 UTC"),
            (1_798_761_599, "2026-12-31 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    fn names_are_shown_as_people_write_them() {
        let names = ["DnsName(\"a.example\")".to_owned(), "IpAddress(10.0.0.1)".to_owned()];
        assert_eq!(presented(&names), ["a.example", "10.0.0.1"]);
        assert_eq!(presented(&vec!["DnsName(\"a\")".to_owned(); 20]).len(), NAMES_SHOWN_MAX);
    }
}
