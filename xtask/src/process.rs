//! Running cargo and other programs.

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// The cargo that runs this, in the workspace's folder.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// Runs a step, saying what it is and how long it took.
pub(crate) fn step(what: &str, command: &mut Command) -> Result<()> {
    println!("== {what}");
    let start = Instant::now();
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{what}: failed with {status}; it was {}", shown(command));
    }
    println!("== {what}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Runs a program in this one's place: its exit code is ours.
pub(crate) fn pass_through(command: &mut Command) -> Result<ExitCode> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// What a program prints, if it succeeds.
pub(crate) fn stdout_of(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::piped()).output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{} failed with {}:\n{}", shown(command), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} did not print UTF-8", shown(command)))
}

/// What `cargo metadata` says of the workspace's own packages.
pub(crate) fn workspace_metadata() -> Result<Value> {
    let text = stdout_of(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    serde_json::from_str(&text).context("cargo metadata did not print JSON")
}

/// Builds a binary of the workspace and says where it is.
pub(crate) fn build_binary(package: &str, name: &str, is_release: bool) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--package", package, "--bin", name, "--message-format=json-render-diagnostics"]);
    if is_release {
        command.arg("--release");
    }
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run {command:?}"))?;
    let mut executable = None;
    for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        executable = executable_in(&line?, name).or(executable);
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("building {package} failed with {status}");
    }
    executable.with_context(|| format!("cargo built {package} but named no executable \"{name}\""))
}

fn executable_in(line: &str, name: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_it = message["reason"] == "compiler-artifact" && message["target"]["name"] == name;
    is_it.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
}

/// The last lines of a file, for an error that should show them.
pub(crate) fn tail(path: &Path, lines_max: usize) -> String {
    const BYTES_MAX: u64 = 64 << 10;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES_MAX)))?;
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(lines_max)..].join("\n")
        }
        Err(error) => format!("({} cannot be read: {error})", path.display()),
    }
}

/// A command as one would type it, without its environment.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let mut text = program.to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_cargos_messages() {
        let line = r#"{"reason":"compiler-artifact","target":{"name":"coracle"},"executable":"/x/coracle"}"#;
        assert_eq!(executable_in(line, "coracle"), Some(PathBuf::from("/x/coracle")));
        assert_eq!(executable_in(line, "other"), None);
        let library = r#"{"reason":"compiler-artifact","target":{"name":"coracle"},"executable":null}"#;
        assert_eq!(executable_in(library, "coracle"), None);
        assert_eq!(executable_in("not JSON", "coracle"), None);
    }

    #[test]
    fn the_tail_of_a_file_that_is_missing_says_so() {
        assert!(tail(Path::new("no/such/file"), 5).contains("no/such/file"));
    }
}
