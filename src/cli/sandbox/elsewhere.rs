//! Systems without Landlock and seccomp.

use anyhow::{Result, bail};

use super::{FileRules, Outbound};

pub(super) fn support() -> String {
    "none: it takes Linux".to_owned()
}

pub(super) fn confine_files(_: &FileRules) -> Result<bool> {
    Ok(false)
}

pub(super) fn confine_calls(_: Outbound) -> Result<()> {
    bail!("it takes Linux")
}
