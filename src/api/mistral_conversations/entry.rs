//! Entries of a conversation, as Mistral's API writes them and as they are stored.
//!
//! Main types: [`Entry`], what was said or done, and [`Recorded`], an entry with its id and time. What clients send is
//! read strictly: an entry of another kind, and a key that nothing reads, are refused by their path.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    api::{
        body::{Fields, unknown_key, wrong},
        error::ApiError,
        timestamp::timestamp,
    },
    store::{Item, NewItem, new_id},
};

const INPUTS: &str = "inputs";
/// Of one request.
const MOST_INPUTS: usize = 1000;
/// Longest id or name of an agent in a handoff: as long as an agent's name can be.
const AGENT_CHARACTERS: usize = 256;

/// Keys that say when, where and by whom an entry was made: they are the server's to write, and labels in a request.
const LABELS: [&str; 6] = ["object", "id", "created_at", "completed_at", "agent_id", "model"];

/// One thing that was said or done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub(super) enum Entry {
    /// Somebody said something to the model, or is said to have been answered by it.
    #[serde(rename = "message.input")]
    Input { role: Role, content: Value },
    /// The model said something.
    #[serde(rename = "message.output")]
    Output { content: Value, agent_id: Option<String>, model: Option<String> },
    /// The model called a function of the client's.
    #[serde(rename = "function.call")]
    Call { tool_call_id: String, name: String, arguments: Value, agent_id: Option<String>, model: Option<String> },
    /// What the function gave.
    #[serde(rename = "function.result")]
    Result { tool_call_id: String, result: String },
    /// An agent let another one go on.
    #[serde(rename = "agent.handoff")]
    Handoff { previous_agent_id: String, previous_agent_name: String, next_agent_id: String, next_agent_name: String },
}

/// Who says a message that a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Role {
    User,
    Assistant,
}

/// An entry of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recorded {
    pub(super) id: String,
    /// Unix seconds.
    pub(super) created_at: u64,
    pub(super) entry: Entry,
    /// Where the request has it, if it has it.
    pub(super) path: Option<String>,
}

/// What the store keeps of an entry beside its id.
#[derive(Serialize, Deserialize)]
struct Stored {
    created_at: u64,
    entry: Entry,
}

impl Entry {
    /// What ids of such entries begin with.
    fn prefix(&self) -> &'static str {
        match self {
            Self::Input { .. } | Self::Output { .. } => "msg_",
            Self::Call { .. } => "fc_",
            Self::Result { .. } => "fr_",
            Self::Handoff { .. } => "handoff_",
        }
    }

    /// Did an agent let another one go on?
    pub(super) fn is_handoff(&self) -> bool {
        matches!(self, Self::Handoff { .. })
    }

    /// Is it something said, rather than done?
    pub(super) fn is_message(&self) -> bool {
        matches!(self, Self::Input { .. } | Self::Output { .. })
    }
}

impl Recorded {
    /// An entry that is made now.
    pub(super) fn new(entry: Entry, created_at: u64) -> Self {
        Self { id: new_id(entry.prefix()), created_at, entry, path: None }
    }

    /// Reads what was stored.
    pub(super) fn stored(item: Item) -> Result<Self, ApiError> {
        match serde_json::from_str(&item.body) {
            Ok(Stored { created_at, entry }) => Ok(Self { id: item.id, created_at, entry, path: None }),
            Err(error) => Err(ApiError::Internal { message: format!("A stored entry: {error}.") }),
        }
    }

    /// As it is stored.
    pub(super) fn item(&self) -> Result<NewItem, ApiError> {
        let stored = Stored { created_at: self.created_at, entry: self.entry.clone() };
        let body = serde_json::to_string(&stored).map_err(|error| ApiError::Internal { message: error.to_string() })?;
        Ok(NewItem { id: self.id.clone(), body })
    }

    /// As the API writes it.
    pub(super) fn object(&self) -> Value {
        let moment = timestamp(self.created_at);
        let mut object = json!({ "object": "entry" });
        if let (Ok(Value::Object(members)), Some(object)) = (serde_json::to_value(&self.entry), object.as_object_mut())
        {
            object.extend(members);
        }
        object["id"] = self.id.as_str().into();
        object["created_at"] = moment.as_str().into();
        object["completed_at"] = moment.into();
        match self.entry {
            Entry::Input { .. } => object["prefix"] = false.into(),
            Entry::Output { .. } => object["role"] = "assistant".into(),
            Entry::Call { .. } => object["confirmation_status"] = Value::Null,
            Entry::Result { .. } | Entry::Handoff { .. } => {}
        }
        object
    }
}

/// Takes `inputs`: a text, which is the user's, or entries.
pub(super) fn take_inputs(fields: &mut Fields, now: u64) -> Result<Option<Vec<Recorded>>, ApiError> {
    let entry = |entry: Entry, path: String| Recorded { path: Some(path), ..Recorded::new(entry, now) };
    match fields.take(INPUTS) {
        None => Ok(None),
        Some(text @ Value::String(_)) => {
            let input = Entry::Input { role: Role::User, content: text };
            Ok(Some(vec![entry(input, INPUTS.to_owned())]))
        }
        Some(Value::Array(items)) if items.len() <= MOST_INPUTS => {
            let read = |(index, item)| {
                let path = format!("{INPUTS}[{index}]");
                read(item, &path).map(|read| entry(read, path))
            };
            items.iter().enumerate().map(read).collect::<Result<_, _>>().map(Some)
        }
        Some(other) => Err(wrong(INPUTS, format_args!("a text, or a list of at most {MOST_INPUTS} entries"), &other)),
    }
}

fn read(item: &Value, path: &str) -> Result<Entry, ApiError> {
    let Some(members) = item.as_object() else { return Err(wrong(path, "an entry (an object)", item)) };
    let reader = Reader { members, path };
    match members.get("type").filter(|kind| !kind.is_null()).map(Value::as_str) {
        // Clients that write JSON by hand leave the type of messages out.
        None | Some(Some("message.input")) => reader.input(),
        Some(Some("message.output")) => reader.output(),
        Some(Some("function.call")) => reader.call(),
        Some(Some("function.result")) => reader.result(),
        Some(Some("agent.handoff")) => reader.handoff(),
        Some(Some(_) | None) => {
            let expected = "message.input, message.output, function.call, function.result or agent.handoff (this server \
                            runs no tools of its own)";
            Err(wrong(&format!("{path}.type"), expected, &item["type"]))
        }
    }
}

/// Reads one entry.
struct Reader<'a> {
    members: &'a Map<String, Value>,
    path: &'a str,
}

impl Reader<'_> {
    fn input(&self) -> Result<Entry, ApiError> {
        self.check(&["role", "content", "prefix"])?;
        match self.members.get("prefix") {
            None | Some(Value::Null | Value::Bool(false)) => {}
            Some(other) => {
                let expected = "false: in conversations the model continues no message";
                return Err(wrong(&self.at("prefix"), expected, other));
            }
        }
        let role = match self.value("role").as_str() {
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            Some(_) | None => return Err(wrong(&self.at("role"), "user or assistant", self.value("role"))),
        };
        Ok(Entry::Input { role, content: self.content()? })
    }

    fn output(&self) -> Result<Entry, ApiError> {
        self.check(&["role", "content"])?;
        if !(self.value("role").is_null() || self.value("role") == "assistant") {
            return Err(wrong(&self.at("role"), "assistant", self.value("role")));
        }
        Ok(Entry::Output { content: self.content()?, agent_id: None, model: None })
    }

    fn call(&self) -> Result<Entry, ApiError> {
        self.check(&["tool_call_id", "name", "arguments"])?;
        let arguments = self.value("arguments");
        if !(arguments.is_string() || arguments.is_object()) {
            return Err(wrong(&self.at("arguments"), "an object, or JSON as a text", arguments));
        }
        Ok(Entry::Call {
            tool_call_id: self.text("tool_call_id")?,
            name: self.text("name")?,
            arguments: arguments.clone(),
            agent_id: None,
            model: None,
        })
    }

    fn result(&self) -> Result<Entry, ApiError> {
        self.check(&["tool_call_id", "result"])?;
        Ok(Entry::Result { tool_call_id: self.text("tool_call_id")?, result: self.text("result")? })
    }

    fn handoff(&self) -> Result<Entry, ApiError> {
        self.check(&["previous_agent_id", "previous_agent_name", "next_agent_id", "next_agent_name"])?;
        Ok(Entry::Handoff {
            previous_agent_id: self.of_agent("previous_agent_id")?,
            previous_agent_name: self.of_agent("previous_agent_name")?,
            next_agent_id: self.of_agent("next_agent_id")?,
            next_agent_name: self.of_agent("next_agent_name")?,
        })
    }

    /// Refuses keys that nothing reads. Null is as good as absent.
    fn check(&self, known: &[&str]) -> Result<(), ApiError> {
        for (key, value) in self.members.iter().filter(|(_, value)| !value.is_null()) {
            let is_known = key == "type" || known.contains(&key.as_str());
            if LABELS.contains(&key.as_str()) {
                if !value.is_string() {
                    return Err(wrong(&self.at(key), "a string", value));
                }
            } else if !is_known {
                return Err(unknown_key(self.path, key));
            }
        }
        Ok(())
    }

    /// The chat checks what its parts are.
    fn content(&self) -> Result<Value, ApiError> {
        match self.value("content") {
            content @ (Value::String(_) | Value::Array(_)) => Ok(content.clone()),
            other => Err(wrong(&self.at("content"), "a text or a list of parts", other)),
        }
    }

    fn text(&self, key: &str) -> Result<String, ApiError> {
        let value = self.value(key);
        value.as_str().map(str::to_owned).ok_or_else(|| wrong(&self.at(key), "a string", value))
    }

    /// An id or a name of an agent. They hardly reach the prompt, so its length would not limit them.
    fn of_agent(&self, key: &str) -> Result<String, ApiError> {
        let text = self.text(key)?;
        if text.chars().count() > AGENT_CHARACTERS {
            let expected = format!("a string of at most {AGENT_CHARACTERS} characters");
            return Err(wrong(&self.at(key), expected, self.value(key)));
        }
        Ok(text)
    }

    fn value(&self, key: &str) -> &Value {
        self.members.get(key).unwrap_or(&Value::Null)
    }

    fn at(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }
}
