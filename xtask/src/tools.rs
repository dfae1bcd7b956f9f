//! `cargo xtask tools`: programs that tests use.

use anyhow::Result;

use crate::debian;

/// A program, and the package that it comes with.
const TOOLS: [(&str, &str); 3] = [("strace", "strace"), ("mkfs.xfs", "xfsprogs"), ("mkfs.ext4", "e2fsprogs")];

pub(crate) fn run() -> Result<()> {
    for (name, package) in TOOLS {
        let command = debian::program(name, package)?;
        println!("{name}: {}", command.get_program().to_string_lossy());
    }
    Ok(())
}
