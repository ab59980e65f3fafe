//! Systems without Landlock and seccomp.

use std::{io, path::Path};

use anyhow::{Result, bail};

use super::{FileRules, Outbound};

pub(super) fn support() -> String {
    "none: it takes Linux".to_owned()
}

/// Nothing is confined to it, so whoever uses it makes it.
pub(super) fn make_private_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

pub(super) fn confine_files(_: &FileRules) -> Result<bool> {
    Ok(false)
}

pub(super) fn confine_calls(_: Outbound) -> Result<()> {
    bail!("it takes Linux")
}
