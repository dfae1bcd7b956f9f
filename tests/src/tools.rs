//! Programs that tests use: the system's, or those that `cargo xtask tools` fetches.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

const FOLDERS: [&str; 4] = ["usr/bin", "usr/sbin", "bin", "sbin"];

/// A program; `Err` says how to get it.
///
/// # Errors
/// When it is neither installed nor can be fetched.
pub fn command(name: &str) -> Result<Command, String> {
    static FETCHED: OnceLock<Result<(), String>> = OnceLock::new();
    if let Some(found) = installed(name).or_else(|| unpacked(name)) {
        return Ok(found);
    }
    FETCHED.get_or_init(fetch).clone()?;
    unpacked(name).ok_or_else(|| format!("{name} is missing, and cargo xtask tools does not fetch it"))
}

/// Runs a program to its end; `Err` has what it complained of.
///
/// # Errors
/// When it is missing or fails.
pub fn run<A: AsRef<Path>>(name: &str, args: impl IntoIterator<Item = A>) -> Result<String, String> {
    let mut command = command(name)?;
    command.args(args.into_iter().map(|arg| arg.as_ref().as_os_str().to_owned())).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("{name} does not run: {error}"))?;
    if !output.status.success() {
        return Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn installed(name: &str) -> Option<Command> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(FOLDERS.map(|folder| Path::new("/").join(folder)));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file()).map(Command::new)
}

/// In the folder of a package under `target/tools`, together with its libraries.
fn unpacked(name: &str) -> Option<Command> {
    let packages = fs::read_dir(root().join("target/tools")).ok()?.flatten().map(|package| package.path());
    for package in packages {
        if let Some(file) =
            FOLDERS.map(|folder| package.join(folder).join(name)).into_iter().find(|file| file.is_file())
        {
            let mut command = Command::new(file);
            command.env("LD_LIBRARY_PATH", env::join_paths(libraries(&package)).ok()?);
            return Some(command);
        }
    }
    None
}

fn libraries(package: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for lib in ["usr/lib", "lib"].map(|lib| package.join(lib)) {
        let inner = fs::read_dir(&lib).into_iter().flatten().flatten().map(|entry| entry.path());
        found.extend(inner.filter(|path| path.is_dir()));
        found.push(lib);
    }
    found
}

fn fetch() -> Result<(), String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root()).args(["xtask", "tools"]).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("cargo does not run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(complaint.lines().last().unwrap_or("cargo xtask tools fails").to_owned())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
