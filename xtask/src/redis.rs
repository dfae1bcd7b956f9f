//! `cargo xtask redis`: finds a Redis server for the tests, or fetches one without installing it.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{debian, process::root};

/// The variable by which tests and clusters are told of the server.
pub(crate) const SERVER_VARIABLE: &str = "CORACLE_REDIS_SERVER";

const PROGRAM: &str = "redis-server";

/// How one gets a server where this cannot.
const BY_HAND: &str =
    "install Redis (Debian: `apt-get install redis-server`) or set CORACLE_REDIS_SERVER to a redis-server";

/// Prints the path of a server, after fetching one if there is none.
pub(crate) fn run() -> Result<()> {
    let server = server()?;
    println!("{}", server.display());
    Ok(())
}

/// The path of a server that starts: what the variable names, the system's own, or `target/redis/redis-server`, which is fetched if it is missing.
pub(crate) fn server() -> Result<PathBuf> {
    if let Some(named) = env::var_os(SERVER_VARIABLE).map(PathBuf::from) {
        let Some(version) = version_of(&named) else {
            bail!("{SERVER_VARIABLE} is {}, which does not start; {BY_HAND}", named.display());
        };
        eprintln!("== {version}, as {SERVER_VARIABLE} says");
        return Ok(named);
    }
    let wrapper = root().join("target").join("redis").join(PROGRAM);
    for candidate in debian::installed(PROGRAM).into_iter().chain([wrapper.clone()]) {
        if let Some(version) = version_of(&candidate) {
            eprintln!("== {version}");
            return Ok(candidate);
        }
    }
    let folder = debian::fetch(PROGRAM).with_context(|| format!("there is no {PROGRAM}; {BY_HAND}"))?;
    write_wrapper(&wrapper, &debian::unpacked(&folder, PROGRAM)?)?;
    let version = version_of(&wrapper)
        .with_context(|| format!("what was fetched to {} does not start; {BY_HAND}", folder.display()))?;
    eprintln!("== {version}, fetched");
    Ok(wrapper)
}

/// What a server says its version is, if it starts.
fn version_of(server: &Path) -> Option<String> {
    if !server.is_file() {
        return None;
    }
    let output = Command::new(server).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words: Vec<&str> = text.split_whitespace().take(3).collect();
    output.status.success().then(|| words.join(" "))
}

/// Writes the script that starts a server with its libraries, so that tests need to know one path only.
/// It becomes the server: a signal reaches it.
fn write_wrapper(path: &Path, server: &Command) -> Result<()> {
    let mut script = "#!/bin/sh\n# Written by `cargo xtask redis`.\n".to_owned();
    for (name, value) in server.get_envs() {
        let value = quoted(value.unwrap_or_default());
        script.push_str(&format!("{name}={value}\nexport {name}\n", name = name.to_string_lossy()));
    }
    script.push_str(&format!("exec {} \"$@\"\n", quoted(server.get_program())));
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // It appears whole: another process may look for it at the same time.
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = fs::write(&temporary, script).and_then(|()| make_executable(&temporary));
    let published = written.and_then(|()| fs::rename(&temporary, path));
    published.with_context(|| format!("cannot write {}", path.display()))
}

/// A word for the shell.
fn quoted(text: &OsStr) -> String {
    format!("'{}'", text.to_string_lossy().replace('\'', "'\\''"))
}

#[cfg(unix)]
fn make_executable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> std::io::Result<()> {
    Err(std::io::Error::new(std::io::ErrorKind::Unsupported, "the packages are for Unix"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_start_is_none() {
        assert_eq!(version_of(Path::new("no/such/server")), None);
        assert_eq!(version_of(Path::new(env!("CARGO_MANIFEST_DIR"))), None);
    }

    #[cfg(unix)]
    #[test]
    fn the_wrapper_passes_on_arguments_and_sets_what_the_server_needs() {
        let path = env::temp_dir().join(format!("coracle wrapper's {}", std::process::id())).join(PROGRAM);
        let mut server = Command::new("/bin/sh");
        server.env("LD_LIBRARY_PATH", "/a b/it's");
        write_wrapper(&path, &server).unwrap();
        let shown = Command::new(&path).args(["-c", "echo \"$LD_LIBRARY_PATH $1\"", "x", "y  z"]).output().unwrap();
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        assert_eq!(String::from_utf8_lossy(&shown.stdout), "/a b/it's y  z\n");
    }
}
