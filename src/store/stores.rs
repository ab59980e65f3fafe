//! One store per tenant, so that nothing which looks something up can find another tenant's.
//!
//! The store of the default tenant lies in the data directory itself, where it lies when there are no tenants; those of
//! others in `tenants/ID` below it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Home, Store, StoreError, wipe};

const TENANTS: &str = "tenants";

/// Where the stores of tenants are.
#[derive(Clone, Debug)]
pub struct Stores {
    /// In memory, if nowhere.
    directory: Option<PathBuf>,
    limit_bytes: u64,
}

impl Stores {
    /// Stores below a data directory, none of which takes more than `limit_bytes`.
    pub fn open(directory: &Path, limit_bytes: u64) -> Self {
        Self { directory: Some(directory.into()), limit_bytes }
    }

    /// Stores that are gone when they are dropped, and never on a disk.
    pub fn in_memory(limit_bytes: u64) -> Self {
        Self { directory: None, limit_bytes }
    }

    /// The store of the default tenant.
    pub fn of_default(&self) -> Result<Store, StoreError> {
        match &self.directory {
            Some(directory) => Store::open(directory, self.limit_bytes),
            None => Store::in_memory(self.limit_bytes),
        }
    }

    /// The store of another tenant by its id, which must be fit to be the name of a directory.
    pub fn of(&self, tenant: &str) -> Result<Store, StoreError> {
        match &self.directory {
            Some(directory) => Store::open(&directory.join(TENANTS).join(tenant), self.limit_bytes),
            None => Store::in_memory(self.limit_bytes),
        }
    }

    /// The store of a tenant by its id, or the default one's, beside a server that may have it open; `None` if there is none.
    pub fn beside(&self, tenant: Option<&str>) -> Result<Option<Store>, StoreError> {
        let Some(directory) = &self.directory else { return Ok(None) };
        let directory = tenant.map_or_else(|| directory.clone(), |tenant| directory.join(TENANTS).join(tenant));
        Store::open_beside(&directory, self.limit_bytes)
    }

    /// Overwrites and deletes the store of another tenant, unless a process has it open. It need not be there.
    pub fn destroy(&self, tenant: &str) -> Result<(), StoreError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let path = directory.join(TENANTS).join(tenant);
        if !path.is_dir() {
            return Ok(());
        }
        wipe::wipe(Home::take(&path)?)
    }

    /// Has another tenant a store on the disk already, by its id?
    pub fn has(&self, tenant: &str) -> bool {
        self.directory.as_ref().is_some_and(|directory| directory.join(TENANTS).join(tenant).is_dir())
    }

    /// Ids of tenants that have a store already, the default one aside.
    pub fn tenants(&self) -> Result<Vec<String>, StoreError> {
        let Some(directory) = &self.directory else { return Ok(Vec::new()) };
        let path = directory.join(TENANTS);
        let unusable = |source| StoreError::Directory { path: path.clone(), source };
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(unusable)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(unusable)?;
            if let (true, Ok(name)) = (entry.path().is_dir(), entry.file_name().into_string()) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }
}
