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
}

/// The directory of the model that was named. A hub id is looked up in the cache first.
pub(super) fn checkpoint(model: &ModelConfig, network: Network, style: LogStyle) -> Result<Located> {
    let id = match source(model.model.as_str())? {
        Source::Directory(directory) => return Ok(Located { names: vec![directory_name(&directory)], directory }),
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
    Ok(Located { directory, names: vec![id.repository] })
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
