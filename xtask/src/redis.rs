//! `cargo xtask redis`: finds a Redis server for the tests, or fetches one without installing it.

use std::{
    collections::BTreeSet,
    env, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::process::{root, stdout_of};

/// The variable by which tests and clusters are told of the server.
pub(crate) const SERVER_VARIABLE: &str = "CORACLE_REDIS_SERVER";

/// What is unpacked whatever the distribution: in some the server is a link into the tools.
const PACKAGES: [&str; 2] = ["redis-server", "redis-tools"];

/// What every system has, and what must not be mixed with another loader.
const PRESENT: [&str; 5] = ["libc6", "libc-bin", "libgcc-s1", "libstdc++6", "libcrypt1"];

/// How one gets a server where this cannot.
const BY_HAND: &str =
    "install Redis (Debian: `apt-get install redis-server`) or set CORACLE_REDIS_SERVER to a redis-server";

/// Prints the path of a server, after fetching one if there is none.
pub(crate) fn run() -> Result<()> {
    let server = server()?;
    println!("{}", server.display());
    Ok(())
}

/// The path of a server that starts: what the variable names, one on PATH, or one under `target/redis`, which is fetched if it is missing.
pub(crate) fn server() -> Result<PathBuf> {
    if let Some(named) = env::var_os(SERVER_VARIABLE).map(PathBuf::from) {
        let Some(version) = version_of(&named) else {
            bail!("{SERVER_VARIABLE} is {}, which does not start; {BY_HAND}", named.display());
        };
        eprintln!("== {version}, as {SERVER_VARIABLE} says");
        return Ok(named);
    }
    let home = root().join("target").join("redis");
    let fetched = home.join("redis-server");
    for candidate in on_path().into_iter().chain([fetched.clone()]) {
        if let Some(version) = version_of(&candidate) {
            eprintln!("== {version}");
            return Ok(candidate);
        }
    }
    fetch(&home).with_context(|| format!("no redis-server, and none could be fetched; {BY_HAND}"))?;
    let version = version_of(&fetched).with_context(|| format!("what was fetched does not start; {BY_HAND}"))?;
    eprintln!("== {version}, fetched");
    Ok(fetched)
}

/// The `redis-server` on PATH; in some systems `/usr/sbin` is not on it.
fn on_path() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|dir| dir.join("redis-server")).find(|file| file.is_file())
}

/// The line in which a server says its version, if it starts.
fn version_of(server: &Path) -> Option<String> {
    if !server.is_file() {
        return None;
    }
    let output = Command::new(server).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words: Vec<&str> = text.split_whitespace().take(3).collect();
    output.status.success().then(|| words.join(" "))
}

/// Downloads the system's packages and unpacks them under `home`.
fn fetch(home: &Path) -> Result<()> {
    let unpacked = home.join("unpacked");
    for folder in [&home.join("packages"), &unpacked] {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot empty {}", folder.display()));
            }
            _ => {}
        }
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let apt = Apt::find(home)?;
    let mut have = BTreeSet::new();
    // What it needs directly is enough on most systems; the libraries of those libraries are there already.
    for is_recursive in [false, true] {
        let wanted = apt.packages(is_recursive)?;
        let missing: Vec<&String> = wanted.difference(&have).collect();
        if !missing.is_empty() {
            apt.download(&missing, &home.join("packages"))?;
        }
        unpack(&home.join("packages"), &unpacked)?;
        write_wrapper(home, &unpacked)?;
        if version_of(&home.join("redis-server")).is_some() {
            return Ok(());
        }
        have.extend(wanted);
    }
    let complaint = stdout_of(Command::new(home.join("redis-server")).arg("--version"));
    bail!("the unpacked server does not start: {complaint:?}")
}

/// The system's package manager, used without privileges.
struct Apt {
    /// Where its lists and caches are, if not the system's.
    options: Vec<String>,
}

impl Apt {
    /// Takes the system's lists if they know the packages, else downloads lists of its own.
    fn find(home: &Path) -> Result<Apt> {
        let has = |program: &str| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
        if !has("apt-get") || !has("dpkg-deb") {
            bail!("this system has no apt-get and dpkg-deb");
        }
        let system = Apt { options: vec![] };
        if system.knows_the_packages() {
            return Ok(system);
        }
        let own = Apt { options: own_lists(&home.join("apt"))? };
        if !own.knows_the_packages() {
            eprintln!("== downloading the lists of packages to {}", home.join("apt").display());
            let mut update = own.command("apt-get");
            stdout_of(update.args(["--quiet", "update"]))?;
        }
        Ok(own)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        command.args(["-o", "APT::Sandbox::User=", "-o", "Debug::NoLocking=1"]).args(&self.options);
        command
    }

    fn knows_the_packages(&self) -> bool {
        let mut policy = self.command("apt-cache");
        let shown = stdout_of(policy.args(["show", "--no-all-versions"]).args(PACKAGES));
        shown.is_ok_and(|text| PACKAGES.iter().all(|name| text.contains(&format!("Package: {name}\n"))))
    }

    /// The packages of the server, and those of the libraries that it needs.
    fn packages(&self, is_recursive: bool) -> Result<BTreeSet<String>> {
        let mut depends = self.command("apt-cache");
        depends.args(["depends", "--important"]).args(is_recursive.then_some("--recurse")).args(PACKAGES);
        let libraries = dependencies(&stdout_of(&mut depends)?);
        Ok(PACKAGES.iter().map(|name| (*name).to_owned()).chain(libraries).collect())
    }

    fn download(&self, packages: &[&String], folder: &Path) -> Result<()> {
        let names: Vec<&str> = packages.iter().map(|name| name.as_str()).collect();
        eprintln!("== downloading {}", names.join(", "));
        let mut download = self.command("apt-get");
        stdout_of(download.args(["--quiet", "download"]).args(names).current_dir(folder))?;
        Ok(())
    }
}

/// Lists and caches in a folder that is ours; what is installed is still the system's.
fn own_lists(folder: &Path) -> Result<Vec<String>> {
    for part in ["state/lists/partial", "cache/archives/partial"] {
        let path = folder.join(part);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    let options = [
        format!("Dir::State={}", folder.join("state").display()),
        format!("Dir::Cache={}", folder.join("cache").display()),
        "Dir::State::status=/var/lib/dpkg/status".to_owned(),
    ];
    Ok(options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect())
}

/// The libraries among what `apt-cache depends` prints; the first of several alternatives.
fn dependencies(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut is_alternative = false;
    for line in text.lines() {
        let Some((kind, name)) = line.trim().split_once("Depends: ") else { continue };
        let name = name.split(':').next().unwrap_or(name);
        let is_library = (name.starts_with("lib") || name.starts_with("lua")) && !PRESENT.contains(&name);
        if is_library && !is_alternative {
            found.insert(name.to_owned());
        }
        is_alternative = kind.contains('|');
    }
    found
}

fn unpack(packages: &Path, to: &Path) -> Result<()> {
    for file in files_below(packages)?.iter().filter(|file| file.extension().is_some_and(|it| it == "deb")) {
        stdout_of(Command::new("dpkg-deb").arg("-x").arg(file).arg(to))?;
    }
    Ok(())
}

/// Writes the script that starts the server with the libraries beside it; `exec`, so that a signal reaches the server.
fn write_wrapper(home: &Path, unpacked: &Path) -> Result<()> {
    let is_library = |file: &&PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().contains(".so"));
    let files = files_below(unpacked)?;
    let folders: BTreeSet<String> = files
        .iter()
        .filter(is_library)
        .filter_map(|file| Some(format!("$here/{}", file.parent()?.strip_prefix(home).ok()?.display())))
        .collect();
    let folders = folders.into_iter().collect::<Vec<_>>().join(":");
    let script = format!(
        "#!/bin/sh\n# Written by `cargo xtask redis`.\nhere=${{0%/*}}\nLD_LIBRARY_PATH=\"{folders}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\"\nexport LD_LIBRARY_PATH\nexec \"$here/unpacked/usr/bin/redis-server\" \"$@\"\n"
    );
    let path = home.join("redis-server");
    fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
    make_executable(&path).with_context(|| format!("cannot make {} executable", path.display()))
}

#[cfg(unix)]
fn make_executable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> std::io::Result<()> {
    Err(std::io::Error::new(ErrorKind::Unsupported, "the packages are for Unix"))
}

/// All files and links below a folder; links are not followed.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let into = if entry.file_type()?.is_dir() { &mut folders } else { &mut files };
            into.push(entry.path());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_several_alternatives_is_taken_and_only_libraries() {
        let text = "redis-server\n  PreDepends: init-system-helpers\n  Depends: redis-tools\n  Depends: libc6\n \
                    |Depends: libsystemd0\n  Depends: libelogind0\n  Depends: liblua5.1-0:any\n  Suggests: libx\n";
        let expected = ["liblua5.1-0", "libsystemd0"].map(str::to_owned);
        assert_eq!(dependencies(text), BTreeSet::from(expected));
    }

    #[test]
    fn a_server_that_does_not_start_is_none() {
        assert_eq!(version_of(Path::new("no/such/server")), None);
        assert_eq!(version_of(Path::new(env!("CARGO_MANIFEST_DIR"))), None);
    }
}
