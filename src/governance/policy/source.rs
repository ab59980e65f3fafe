//! Policies from their files to a validated set.

use std::{
    fs,
    path::{Path, PathBuf},
};

use cedar_policy::{Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;
use sha2::{Digest, Sha256};

use super::{DEFAULT_POLICIES, PolicyError, SCHEMA};
use crate::{governance::reloaded::Readable, types::hexadecimal};

const SUFFIX: &str = "cedar";

/// A set that is right.
pub(super) struct Loaded {
    pub(super) schema: Schema,
    pub(super) policies: PolicySet,
    pub(super) names: Vec<String>,
    pub(super) digest: String,
}

/// A file's name and content.
struct Source {
    name: String,
    text: String,
}

impl Readable for Loaded {
    /// A directory, or the built-in ones.
    type Source = Option<PathBuf>;
    type Error = PolicyError;

    fn read(directory: &Option<PathBuf>) -> Result<Self, PolicyError> {
        let sources = match directory {
            Some(directory) => read_directory(directory)?,
            None => vec![Source { name: "default.cedar".to_owned(), text: DEFAULT_POLICIES.to_owned() }],
        };
        Self::of(&sources)
    }

    fn digest(&self) -> &str {
        &self.digest
    }
}

impl Loaded {
    fn of(sources: &[Source]) -> Result<Self, PolicyError> {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA)
            .map_err(|error| PolicyError::Question { reason: format!("the schema: {error}") })?;
        let mut digest = Sha256::new();
        add(&mut digest, SCHEMA);
        let (mut policies, mut names) = (PolicySet::new(), Vec::new());
        for source in sources {
            add(&mut digest, &source.name);
            add(&mut digest, &source.text);
            for policy in source.policies()? {
                let name = policy.id().to_string();
                policies
                    .add(policy)
                    .map_err(|_| PolicyError::SameName { file: source.name.clone(), name: name.clone() })?;
                names.push(name);
            }
        }
        let validator = Validator::new(schema);
        let found = validator.validate(&policies, ValidationMode::Strict);
        let reasons: Vec<String> = found.validation_errors().map(ToString::to_string).collect();
        if !reasons.is_empty() {
            return Err(PolicyError::Invalid { reasons: reasons.join("; ") });
        }
        let digest = hexadecimal(&digest.finalize());
        Ok(Self { schema: validator.schema().clone(), policies, names, digest })
    }
}

impl Source {
    /// The file's policies, named by their `@id`, or else by the file and their number in it.
    fn policies(&self) -> Result<Vec<Policy>, PolicyError> {
        let set: PolicySet = self.text.parse().map_err(|error| self.syntax_error(&error))?;
        if set.num_of_templates() > 0 {
            return Err(PolicyError::Template { file: self.name.clone() });
        }
        let mut policies: Vec<&Policy> = set.policies().collect();
        // Cedar numbers them as they stand in the file: policy0, policy1, ...
        policies.sort_by_key(|policy| number_of(policy));
        let named = |policy: &Policy| {
            let name = policy.annotation("id").filter(|name| !name.is_empty()).map(str::to_owned);
            let name = name.unwrap_or_else(|| format!("{}#{}", self.name, number_of(policy) + 1));
            policy.new_id(PolicyId::new(name))
        };
        Ok(policies.into_iter().map(named).collect())
    }

    fn syntax_error(&self, error: &cedar_policy::ParseErrors) -> PolicyError {
        let at = error.labels().and_then(|mut labels| labels.next()).map_or(0, |label| label.offset());
        let before = self.text.get(..at).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |start| start.chars().count()) + 1;
        PolicyError::Syntax { file: self.name.clone(), line, column, reason: error.to_string() }
    }
}

fn number_of(policy: &Policy) -> usize {
    let id = policy.id().to_string();
    id.trim_start_matches(|letter: char| !letter.is_ascii_digit()).parse().unwrap_or(0)
}

/// In the order of their names, so that the same files are the same policies wherever they lie.
fn read_directory(directory: &Path) -> Result<Vec<Source>, PolicyError> {
    let unreadable = |path: &Path| {
        let path = path.to_path_buf();
        move |source| PolicyError::Unreadable { path, source }
    };
    let mut sources = Vec::new();
    for entry in fs::read_dir(directory).map_err(unreadable(directory))? {
        let path = entry.map_err(unreadable(directory))?.path();
        if path.extension().is_some_and(|suffix| suffix == SUFFIX) {
            let text = fs::read_to_string(&path).map_err(unreadable(&path))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            sources.push(Source { name, text });
        }
    }
    if sources.is_empty() {
        return Err(PolicyError::Empty { path: directory.into() });
    }
    sources.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(sources)
}

/// With its length, so that no two lists of texts have the same digest.
fn add(digest: &mut Sha256, text: &str) {
    digest.update((text.len() as u64).to_le_bytes());
    digest.update(text.as_bytes());
}
