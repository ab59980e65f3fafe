//! From the model's name to the directory that holds it. A directory never leads to the network; a hub id
//! leads there only where the caller allows it.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::Result;

use super::{
    error::UsageError,
    hub::{Hub, Weights},
    pull,
};
use crate::{
    config::{DEFAULT_MODEL, ModelConfig},
    telemetry::logs::LogStyle,
};

/// What a model's name means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// A checkpoint on this machine.
    Directory(PathBuf),
    /// A repository on the hub.
    Hub(HubId),
}

/// `owner/name[@revision]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HubId {
    /// `owner/name`
    pub(super) repository: String,
    /// Branch, tag or commit; `main` unless told.
    pub(super) revision: String,
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { repository, revision } = self;
        if revision == "main" { write!(f, "{repository}") } else { write!(f, "{repository}@{revision}") }
    }
}

impl FromStr for HubId {
    type Err = UsageError;

    fn from_str(text: &str) -> std::result::Result<Self, UsageError> {
        let (repository, revision) = text.split_once('@').unwrap_or((text, "main"));
        let parts: Vec<&str> = repository.split('/').collect();
        if parts.len() != 2 || !parts.iter().all(|part| is_name(part)) || !revision.split('/').all(is_name) {
            return Err(UsageError(format!(
                "{text:?} is not a hub id: expected owner/name or owner/name@revision, \
                 such as mistralai/Mistral-7B-Instruct-v0.3"
            )));
        }
        Ok(Self { repository: repository.into(), revision: revision.into() })
    }
}

/// One segment of a hub id: letters, digits and `-_.`, not beginning with `.` or `-`.
fn is_name(part: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !part.is_empty() && part.len() <= 96 && part.chars().all(legal) && !part.starts_with(['.', '-'])
}

/// May a checkpoint that is not on this machine be fetched?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    /// Yes, unless this is offline mode.
    Allowed,
    /// No.
    Forbidden,
}

/// Where a checkpoint is, and what it is called unless told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located {
    pub(super) directory: PathBuf,
    pub(super) names: Vec<String>,
    /// As locks have it.
    pub(super) source: String,
    /// The commit, if it is from the hub.
    pub(super) revision: Option<String>,
}

impl Located {
    /// A directory.
    pub(super) fn at(directory: &Path) -> Self {
        let name = directory_name(directory);
        Self { directory: directory.into(), source: format!("path:{name}"), names: vec![name], revision: None }
    }

    /// A directory of the hub's cache.
    pub(super) fn from_hub(id: &HubId, directory: PathBuf) -> Self {
        let revision = directory.file_name().map(|commit| commit.to_string_lossy().into_owned());
        Self { directory, names: vec![id.repository.clone()], source: format!("hub:{}", id.repository), revision }
    }

    /// What it is called unless told.
    pub(super) fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }
}

/// The directory of the model that was named. A hub id is looked up in the cache first.
pub(super) fn checkpoint(model: &ModelConfig, network: Network, style: LogStyle) -> Result<Located> {
    let id = match source(model.model.as_str())? {
        Source::Directory(directory) => return Ok(Located::at(&directory)),
        Source::Hub(id) => id,
    };
    let hub = Hub::from_env()?;
    let directory = match hub.cached(&id) {
        Some(directory) => directory,
        None if model.offline.is_on() => {
            return Err(UsageError(format!("{id} is not in the cache, and this is offline mode")).into());
        }
        None if network == Network::Forbidden => {
            return Err(UsageError(format!("{id} is not in the cache: run `tramontane pull {id}` first")).into());
        }
        None => pull::pull(&hub, &id, Weights::HuggingFace, style)?,
    };
    Ok(Located::from_hub(&id, directory))
}

/// Why there is no model, if none is named and the one that comes with the program is not there.
pub(super) fn no_model(model: &ModelConfig) -> Option<UsageError> {
    if model.model.as_str() == DEFAULT_MODEL { source(DEFAULT_MODEL).err() } else { None }
}

/// The id of a model that would have to be fetched.
pub(super) fn missing_hub_id(model: &ModelConfig) -> Result<Option<HubId>> {
    match source(model.model.as_str())? {
        Source::Hub(id) if !model.offline.is_on() && Hub::from_env()?.cached(&id).is_none() => Ok(Some(id)),
        Source::Hub(_) | Source::Directory(_) => Ok(None),
    }
}

/// The directory that a file is in.
pub(super) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}

fn directory_name(directory: &Path) -> String {
    let resolved = directory.canonicalize();
    let path = resolved.as_deref().unwrap_or(directory);
    path.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

/// Tells a directory from a hub id: a directory that exists wins, and what cannot be a hub id is an error.
fn source(name: &str) -> std::result::Result<Source, UsageError> {
    if Path::new(name).is_dir() {
        return Ok(Source::Directory(name.into()));
    }
    if name == DEFAULT_MODEL {
        return built_in().map(Source::Directory);
    }
    name.parse().map(Source::Hub).map_err(|_| {
        UsageError(format!("{name:?} is neither a directory nor a hub id such as mistralai/Mistral-7B-Instruct-v0.3"))
    })
}

/// The model that comes with the program: looked for beside the executable, in each directory above it (a
/// checkout's `target/release`), and where packages put data (`../share/tramontane`).
fn built_in() -> std::result::Result<PathBuf, UsageError> {
    let executable = std::env::current_exe().and_then(std::fs::canonicalize).unwrap_or_default();
    let above = executable.ancestors().skip(1).take(5);
    above
        .flat_map(|directory| [directory.join(DEFAULT_MODEL), directory.join("share/tramontane").join(DEFAULT_MODEL)])
        .find(|candidate| candidate.is_dir())
        .ok_or_else(|| {
            UsageError(format!(
                "the built-in model {DEFAULT_MODEL} is neither in the working directory nor near {}: \
                 name a model, or set TRAMONTANE_MODEL",
                executable.display()
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_ids() {
        let check = |text: &str, expected: Option<(&str, &str)>| {
            let id = text.parse::<HubId>().ok();
            assert_eq!(id.as_ref().map(|id| (&*id.repository, &*id.revision)), expected, "{text}");
        };
        check("mistralai/Mistral-7B-v0.3", Some(("mistralai/Mistral-7B-v0.3", "main")));
        check("a/b@refs/pr/4", Some(("a/b", "refs/pr/4")));
        check("a/b@0123abc", Some(("a/b", "0123abc")));
        check("b", None);
        check("a/b/c", None);
        check("../b", None);
        check("a/..", None);
        check("/a", None);
        check("a/b@", None);
        check("a/b@../../x", None);
        check("a/b?x", None);
    }

    #[test]
    fn a_directory_is_never_taken_for_a_hub_id() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("owner/name");
        std::fs::create_dir_all(&path).unwrap();
        let name = path.to_str().unwrap();
        assert_eq!(source(name).unwrap(), Source::Directory(path.clone()));
        assert!(source("./missing/model").is_err());
        assert!(source("/missing/model").is_err());
    }
}
