//! Where the data directory is, and what is opened in it.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::error::UsageError;
use crate::{
    config::{DataPlace, StorageConfig},
    governance::Governance,
    store::Stores,
};

/// Where what tenants store is, or a place for it.
pub(super) fn stores(storage: &StorageConfig) -> Result<Stores> {
    let limit_bytes = storage.limit.bytes();
    let directory = directory(&storage.place)?;
    Ok(directory.map_or_else(|| Stores::in_memory(limit_bytes), |path| Stores::open(&path, limit_bytes)))
}

/// What it means that these cannot be opened.
pub(super) fn cannot_store(storage: &StorageConfig) -> String {
    let directory = directory(&storage.place).ok().flatten().unwrap_or_default();
    format!("cannot store in data_dir = {}; with ephemeral nothing is stored", directory.display())
}

/// Opens the identities; there are none where nothing is stored.
pub(super) fn governance(place: &DataPlace) -> Result<Governance> {
    let Some(directory) = directory(place)? else { return Ok(Governance::in_memory()?) };
    let governance = Governance::open(&directory);
    governance.with_context(|| format!("cannot read identities in data_dir = {}", directory.display()))
}

/// The same for a command that changes them.
pub(super) fn lasting_governance(place: &DataPlace) -> Result<Governance> {
    match place {
        DataPlace::Memory => Err(UsageError("with ephemeral nothing that is changed would last".to_owned()).into()),
        DataPlace::UserDirectory | DataPlace::Directory(_) => governance(place),
    }
}

/// Where data is kept, if it is.
pub(super) fn directory(place: &DataPlace) -> Result<Option<PathBuf>> {
    match place {
        DataPlace::Memory => Ok(None),
        DataPlace::Directory(directory) => Ok(Some(directory.clone())),
        DataPlace::UserDirectory => {
            let parent = dirs::data_dir().context("this user has no data directory: set data_dir, or ephemeral")?;
            Ok(Some(parent.join("tramontane")))
        }
    }
}
