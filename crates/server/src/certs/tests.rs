//! What is made is of use, and nothing that is there is lost.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;

use clap::Parser;
use coracle::transport::tls::names_fit;

use super::*;
use crate::cli::{Cli, Command};

/// Runs `coracle certs` with these arguments in this directory.
fn certs(folder: &Path, rest: &str) -> Outcome {
    let line = format!("coracle certs {rest} --dir");
    let words = line.split_whitespace().map(Into::into).chain([folder.as_os_str().to_owned()]);
    match Cli::try_parse_from(words).unwrap().command {
        Command::Certs(args) => run(&args),
        other => panic!("{other:?}"),
    }
}

fn refused(folder: &Path, rest: &str) -> Failure {
    certs(folder, rest).unwrap_err()
}

fn load(folder: &Path, hosts: &[&str]) -> Tls {
    Tls::load(&files_of(folder, &Hosts(hosts.iter().map(|&host| host.to_owned()).collect()))).unwrap()
}

/// The contents of all files.
fn contents(folder: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut contents: Vec<_> = entries.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect();
    contents.sort();
    contents
}

async fn meet(accepting: &Tls, dialling: &Tls, host: &str) -> bool {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (accepted, dialled) = tokio::join!(accepting.accept(near), dialling.connect(host, far));
    accepted.is_ok() && dialled.is_ok()
}

#[tokio::test]
async fn what_is_made_is_taken_by_nodes_and_connects_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new");
    certs(&path, "--host 10.0.0.1 --host A.example,10.0.0.2 --host ::1").unwrap();
    let (one, two, three) = (load(&path, &["10.0.0.1"]), load(&path, &["a.example"]), load(&path, &["::1"]));
    assert!(meet(&one, &two, "10.0.0.1").await && meet(&two, &three, "a.example").await);
    assert!(meet(&two, &three, "10.0.0.2").await && meet(&three, &one, "::1").await);
    assert!(!meet(&one, &two, "10.0.0.2").await, "that is another node's");
    assert!(!names_fit(one.certificate(), &["a.example"]));
    #[cfg(unix)]
    for entry in fs::read_dir(&path).unwrap().map(|entry| entry.unwrap()) {
        use std::os::unix::fs::PermissionsExt;
        let is_key = entry.path().extension().is_some_and(|ending| ending == "key");
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077 == 0, is_key, "{entry:?}");
    }
}

#[tokio::test]
async fn further_certificates_are_of_the_same_ca_and_other_cas_are_other() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    certs(here.path(), "--host a.example").unwrap();
    let before = contents(here.path());
    certs(here.path(), "--host b.example --days 10").unwrap();
    let after = contents(here.path());
    assert!(before.iter().all(|file| after.contains(file)), "what was there is as it was");
    let (a, b) = (load(here.path(), &["a.example"]), load(here.path(), &["b.example"]));
    assert!(meet(&a, &b, "a.example").await);
    assert_eq!((a.expiring(std::time::Duration::from_secs(11 * 86_400)).len()), 0);
    assert_eq!((b.expiring(std::time::Duration::from_secs(11 * 86_400)).len()), 1);
    certs(there.path(), "--host b.example").unwrap();
    assert!(!meet(&a, &load(there.path(), &["b.example"]), "a.example").await);
}

#[test]
fn nothing_is_overwritten_unless_it_is_wanted_and_the_ca_never() {
    let folder = tempfile::tempdir().unwrap();
    certs(folder.path(), "--host a.example").unwrap();
    let before = contents(folder.path());
    let failure = refused(folder.path(), "--host b.example --host a.example");
    assert!(failure.code == Code::Refused && failure.to_string().contains("a.example.pem exists already"), "{failure}");
    assert_eq!(contents(folder.path()), before, "not even the other one was made");
    certs(folder.path(), "--host a.example --force").unwrap();
    let after = contents(folder.path());
    let same = |(was, is): (&(_, Vec<u8>), &(_, _))| *was == *is;
    let kept: Vec<bool> = before.iter().zip(&after).map(same).collect();
    assert_eq!(kept, [false, false, true, true], "a.example.key, a.example.pem, ca.key, ca.pem");
    load(folder.path(), &["a.example"]);
}

#[test]
fn a_ca_that_is_not_whole_or_does_not_fit_is_refused_and_nothing_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    certs(folder.path(), "--host a.example").unwrap();
    let (certificate, key) = (fs::read(path("ca.pem")).unwrap(), fs::read(path("ca.key")).unwrap());
    for (certificate, key, part) in [
        (Some(certificate.as_slice()), None, "there is ca.pem in"),
        (None, Some(key.as_slice()), "there is ca.key in"),
        (Some(b"nonsense".as_slice()), Some(key.as_slice()), "ca.pem cannot be used"),
        (Some(certificate.as_slice()), Some(b"nonsense".as_slice()), "ca.key cannot be used"),
        (Some(certificate.as_slice()), Some(fs::read(path("a.example.key")).unwrap().as_slice()), "is not of the CA"),
    ] {
        for (name, content) in [("ca.pem", certificate), ("ca.key", key)] {
            let _ = fs::remove_file(path(name));
            content.into_iter().for_each(|content| fs::write(path(name), content).unwrap());
        }
        let failure = refused(folder.path(), "--host b.example");
        assert!(failure.code == Code::Configuration && failure.to_string().contains(part), "{failure}");
        assert!(!path("b.example.pem").exists() && !path("b.example.key").exists());
    }
}

#[test]
fn hosts_that_cannot_be_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for (rest, part) in [("--host ca", "\"ca\""), ("--host a --host A", "--host a is given twice")] {
        let failure = refused(folder.path(), rest);
        assert!(failure.code == Code::Usage && failure.to_string().contains(part), "{failure}");
    }
    assert_eq!(contents(folder.path()), []);
    for rest in ["", "--host a/b", "--host a,", "--host 1.2.3.4.5:1", "--host a --days 0", "--host a --days 99999"] {
        let error = Cli::try_parse_from(format!("coracle certs {rest}").split_whitespace()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{rest}");
    }
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(refused(&file.join("below"), "--host a").code, Code::Io);
}
