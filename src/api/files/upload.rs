//! A form becomes a stored file, piece by piece, in whatever order its fields come.

use axum::extract::Request;
use serde_json::{Map, Value, json};

use crate::{
    api::{
        body::{Fields, as_integer, wrong},
        error::ApiError,
        fields,
        files::{BATCH, PART_BYTES},
        multipart::{Multipart, PartHead},
        state::{AppState, unix_seconds},
        stored_error::StoredError,
    },
    store::{FileDetails, Store, StoredFile},
};

/// Longest value of a field that is not the file.
const MAX_TEXT_BYTES: usize = 1024;
const MAX_FILENAME_CHARACTERS: usize = 255;
const HOUR_SECONDS: u64 = 3600;

/// An upload under way.
pub(super) struct Upload<'a> {
    state: &'a AppState,
    /// The file once it was begun.
    begun: Option<Begun>,
    texts: Map<String, Value>,
}

struct Begun {
    id: String,
    filename: String,
}

impl<'a> Upload<'a> {
    pub(super) fn new(state: &'a AppState) -> Self {
        Self { state, begun: None, texts: Map::new() }
    }

    /// Reads the whole form.
    pub(super) async fn store(&mut self, request: Request) -> Result<StoredFile, ApiError> {
        let now = unix_seconds();
        let (head, body) = request.into_parts();
        let mut form = Multipart::new(&head.headers, body, self.state.limits().body_timeout)?;
        while let Some(part) = form.next_part().await? {
            if part.name == "file" {
                self.take_file(part, &mut form, now).await?;
            } else {
                check_name(&part.name)?;
                let text = read_text(&part.name, &mut form).await?;
                self.put_text(part.name, text)?;
            }
        }
        let Some(Begun { id, filename }) = &self.begun else {
            return Err(ApiError::invalid(
                "file",
                "`file` is missing: the form needs a part of that name with a filename.",
            ));
        };
        let retention = self.state.retention_s();
        let details = details(std::mem::take(&mut self.texts), filename, now, retention)?;
        Ok(self.store_of().complete_file(id, details).await?)
    }

    /// Deletes what was stored of a form that could not be read.
    pub(super) async fn abandon(self) {
        let Some(Begun { id, .. }) = &self.begun else { return };
        if let Err(error) = self.store_of().delete_file(id).await {
            tracing::warn!(%error, "an upload that failed stays until the next sweep");
        }
    }

    fn store_of(&self) -> &'a Store {
        self.state.store()
    }

    async fn take_file(&mut self, part: PartHead, form: &mut Multipart, now: u64) -> Result<(), ApiError> {
        if self.begun.is_some() {
            return Err(ApiError::invalid("file", "`file` is there twice; a form has one file."));
        }
        let filename = part.filename.unwrap_or_default();
        if !(1..=MAX_FILENAME_CHARACTERS).contains(&filename.chars().count()) {
            let expected = format!("a file with a name of 1 to {MAX_FILENAME_CHARACTERS} characters");
            return Err(wrong("file", expected, &Value::String(filename)));
        }
        let id = self.store_of().begin_file(now).await?;
        self.begun = Some(Begun { id: id.clone(), filename });
        // The buffer counts as a body; it is given back when the file is read.
        let mut memory = None;
        self.state.reserve_body(&mut memory, PART_BYTES)?;
        let limit = self.state.limits().storage.file_bytes;
        let (mut buffer, mut len) = (Vec::with_capacity(PART_BYTES), 0_usize);
        while let Some(piece) = form.next_piece().await? {
            len += piece.len();
            if len > limit {
                return Err(StoredError::FileTooLarge { limit }.into());
            }
            if buffer.len() + piece.len() > PART_BYTES {
                self.store_of().append_to_file(&id, std::mem::take(&mut buffer)).await?;
            }
            buffer.extend_from_slice(&piece);
        }
        if len == 0 {
            return Err(ApiError::invalid("file", "`file` is empty."));
        }
        Ok(self.store_of().append_to_file(&id, buffer).await?)
    }

    /// `expires_after[seconds]` is a member of `expires_after`.
    fn put_text(&mut self, name: String, text: String) -> Result<(), ApiError> {
        let member = name.strip_suffix(']').and_then(|name| name.split_once('['));
        let replaced = match member {
            None => self.texts.insert(name.clone(), Value::String(text)),
            Some((object, member)) => {
                let object = self.texts.entry(object).or_insert_with(|| json!({}));
                let Some(object) = object.as_object_mut() else {
                    return Err(ApiError::invalid(name.clone(), format!("`{name}` is there as a text already.")));
                };
                object.insert(member.to_owned(), Value::String(text))
            }
        };
        match replaced {
            None => Ok(()),
            Some(_) => Err(ApiError::invalid(name.clone(), format!("`{name}` is there twice."))),
        }
    }
}

/// Before any of its content is kept: names that nothing reads have no end.
fn check_name(name: &str) -> Result<(), ApiError> {
    let field = name.split_once('[').map_or(name, |(object, _)| object);
    match fields::FILES.field(field) {
        Some(_) => Ok(()),
        None => Err(fields::FILES.unknown(name)),
    }
}

async fn read_text(name: &str, form: &mut Multipart) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    while let Some(piece) = form.next_piece().await? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MAX_TEXT_BYTES {
            return Err(ApiError::invalid(name, format!("`{name}` is longer than {MAX_TEXT_BYTES} bytes.")));
        }
    }
    String::from_utf8(bytes).map_err(|_| ApiError::invalid(name, format!("`{name}` is not UTF-8.")))
}

/// The fields beside the file itself.
fn details(texts: Map<String, Value>, filename: &str, now: u64, retention: u64) -> Result<FileDetails, ApiError> {
    let mut fields = Fields::of(texts, &fields::FILES);
    let purpose = fields.string("purpose")?;
    let after = take_expires_after(&mut fields, retention)?;
    let expiry = match fields.take("expiry") {
        None => None,
        Some(hours) => Some(number("expiry", &hours, retention / HOUR_SECONDS)? * HOUR_SECONDS),
    };
    if after.is_some() && expiry.is_some() {
        return Err(ApiError::invalid("expiry", "`expiry` and `expires_after` are the same; give one of them."));
    }
    fields.finish()?;
    match purpose {
        Some(purpose) if purpose == BATCH => Ok(FileDetails {
            filename: filename.to_owned(),
            purpose,
            expires_at: now.saturating_add(after.or(expiry).unwrap_or(retention)),
        }),
        other => {
            let expected = "`batch` (files for fine-tuning, vision, assistants and the like have no use here)";
            Err(wrong("purpose", expected, &other.into()))
        }
    }
}

/// OpenAI's `{"anchor": "created_at", "seconds": 3600}`.
fn take_expires_after(fields: &mut Fields, retention: u64) -> Result<Option<u64>, ApiError> {
    let map = match fields.take("expires_after") {
        None => return Ok(None),
        Some(Value::Object(map)) => map,
        Some(other) => {
            return Err(wrong("expires_after", "`expires_after[anchor]` and `expires_after[seconds]`", &other));
        }
    };
    if let Some(key) = map.keys().find(|key| !["anchor", "seconds"].contains(&key.as_str())) {
        let path = format!("expires_after[{key}]");
        return Err(ApiError::invalid(path.clone(), format!("`{path}` is unknown.")));
    }
    if map.get("anchor").and_then(Value::as_str) != Some("created_at") {
        let anchor = map.get("anchor").unwrap_or(&Value::Null);
        return Err(wrong("expires_after[anchor]", "created_at", anchor));
    }
    number("expires_after[seconds]", map.get("seconds").unwrap_or(&Value::Null), retention).map(Some)
}

/// A form has texts only.
fn number(path: &str, value: &Value, most: u64) -> Result<u64, ApiError> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let parsed = value.as_str().and_then(|text| text.parse::<i64>().ok()).map_or(value.clone(), Value::from);
    as_integer(&parsed, path, 1..=most).map(i64::unsigned_abs)
}
