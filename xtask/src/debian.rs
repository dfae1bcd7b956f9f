//! Programs of the system's packages, fetched and unpacked under `target/tools`: nothing is installed, and no service is started.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::process::{root, stdout_of};

/// Where a package's programs may lie.
const PROGRAMS: [&str; 4] = ["usr/bin", "usr/sbin", "bin", "sbin"];

/// Unpacks a package and those that it needs and the system lacks, once, and says in which folder.
///
/// # Errors
/// When this is no Debian, or the package cannot be fetched; the error says how to get it otherwise.
pub(crate) fn fetch(package: &str) -> Result<PathBuf> {
    let folder = tools().join(package);
    if folder.is_dir() {
        return Ok(folder);
    }
    let temporary = tools().join(format!("{package}.{}.tmp", std::process::id()));
    let fetched = unpack(package, &temporary).and_then(|()| publish(&temporary, &folder));
    if fetched.is_err() {
        // What was fetched of it is of no use, and the first error is the one to show.
        let _ = fs::remove_dir_all(&temporary);
    }
    fetched.with_context(|| {
        format!(
            "the package {package} cannot be fetched; with it installed (as root: apt-get install {package}) nothing is"
        )
    })?;
    Ok(folder)
}

/// A program: the system's own, or else that of a package, which is fetched.
///
/// # Errors
/// When neither is there.
pub(crate) fn program(name: &str, package: &str) -> Result<Command> {
    if let Some(found) = installed(name) {
        return Ok(Command::new(found));
    }
    unpacked(&fetch(package)?, name)
}

/// Whether the system has a program itself; those for administrators are not on everybody's path.
pub(crate) fn installed(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(PROGRAMS.map(|folder| Path::new("/").join(folder)));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A program in the folder of a package, which finds the libraries that came along.
///
/// # Errors
/// When the package has no such program.
pub(crate) fn unpacked(folder: &Path, name: &str) -> Result<Command> {
    let found = PROGRAMS.iter().map(|programs| folder.join(programs).join(name)).find(|file| file.is_file());
    let found = found.with_context(|| format!("{} has no program {name}", folder.display()))?;
    let mut command = Command::new(found);
    command.env("LD_LIBRARY_PATH", libraries(folder));
    Ok(command)
}

/// Where the packages lie.
fn tools() -> PathBuf {
    root().join("target/tools")
}

/// The folders with libraries: `usr/lib`, `lib`, and those for the machine's architecture in them.
fn libraries(folder: &Path) -> OsString {
    let mut found = Vec::new();
    for lib in ["usr/lib", "lib"] {
        let lib = folder.join(lib);
        let inner = fs::read_dir(&lib).into_iter().flatten().flatten().map(|entry| entry.path());
        found.extend(inner.filter(|path| path.is_dir() && path.to_string_lossy().contains("-linux-")));
        found.push(lib);
    }
    // Only a path with a colon in it cannot be joined.
    env::join_paths(found).unwrap_or_default()
}

/// A whole folder appears at once, so that of two who fetch at the same time both find one.
fn publish(temporary: &Path, folder: &Path) -> Result<()> {
    match fs::rename(temporary, folder) {
        Err(_) if folder.is_dir() => fs::remove_dir_all(temporary).context("cannot delete a second copy"),
        other => other.with_context(|| format!("cannot rename {}", temporary.display())),
    }
}

fn unpack(package: &str, folder: &Path) -> Result<()> {
    if installed("apt-get").is_none() || installed("dpkg-deb").is_none() {
        bail!("this system has no apt-get and dpkg-deb");
    }
    let archives = folder.join("archives");
    fs::create_dir_all(&archives).with_context(|| format!("cannot make {}", archives.display()))?;
    eprintln!("== fetching {package} into {}", tools().display());
    if let Err(first) = download(package, &archives, &[]) {
        // The system's lists of packages may be missing or old: these are our own.
        let lists = own_lists()?;
        let updated = stdout_of(apt(&lists).arg("update"));
        updated.and_then(|_| download(package, &archives, &lists)).with_context(|| format!("{first:#}"))?;
    }
    for archive in fs::read_dir(&archives)? {
        stdout_of(Command::new("dpkg-deb").arg("-x").arg(archive?.path()).arg(folder))?;
    }
    fs::remove_dir_all(&archives).context("cannot delete the packages' archives")
}

/// Fetches a package and those that would be installed with it.
fn download(package: &str, archives: &Path, options: &[OsString]) -> Result<()> {
    let simulated = stdout_of(apt(options).args(["--simulate", "--no-install-recommends", "install", package]))?;
    let mut packages = to_install(&simulated);
    if !packages.contains(&package) {
        packages.push(package);
    }
    stdout_of(apt(options).current_dir(archives).arg("download").args(packages)).map(drop)
}

fn apt(options: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new("apt-get");
    command.arg("--quiet").args(options).env("LC_ALL", "C");
    command
}

/// Options under which apt keeps lists of packages in a folder of ours.
fn own_lists() -> Result<Vec<OsString>> {
    let folder = tools().join("apt");
    let mut options = Vec::new();
    for (name, part) in [("Dir::State::lists", "lists"), ("Dir::Cache", "cache")] {
        let path = folder.join(part);
        fs::create_dir_all(path.join("partial")).with_context(|| format!("cannot make {}", path.display()))?;
        let mut option = OsString::from(format!("{name}="));
        option.push(path);
        options.extend(["-o".into(), option]);
    }
    Ok(options)
}

/// The packages that a simulated installation names.
fn to_install(simulated: &str) -> Vec<&str> {
    simulated.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_to_install_are_those_that_apt_would() {
        let simulated = "The following NEW packages will be installed:\n  liba b\nInst liba (1 Debian:12 [amd64])\nInst b (2 Debian:12 [amd64])\nConf liba (1 Debian:12 [amd64])\n";
        assert_eq!(to_install(simulated), ["liba", "b"]);
    }

    #[test]
    fn a_program_of_the_system_is_found_and_another_is_not() {
        assert!(installed("sh").is_some());
        assert_eq!(installed("no-such-program"), None);
    }

    #[test]
    fn an_unpacked_program_finds_its_libraries() {
        let folder = env::temp_dir().join(format!("coracle-unpacked-{}", std::process::id()));
        let libraries = folder.join("usr/lib/some-linux-gnu");
        fs::create_dir_all(&libraries).unwrap();
        fs::create_dir_all(folder.join("usr/sbin")).unwrap();
        fs::write(folder.join("usr/sbin/tool"), "").unwrap();
        let command = unpacked(&folder, "tool").unwrap();
        assert_eq!(command.get_program(), folder.join("usr/sbin/tool"));
        let path = command.get_envs().find(|(name, _)| *name == "LD_LIBRARY_PATH").unwrap().1.unwrap();
        assert_eq!(env::split_paths(path).next(), Some(libraries));
        assert!(unpacked(&folder, "other").unwrap_err().to_string().contains("no program other"));
        fs::remove_dir_all(&folder).unwrap();
    }
}
