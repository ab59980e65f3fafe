//! Handing a conversation over: an agent is offered one function for each agent that it may hand over to.

use serde_json::{Value, json};

use crate::store::Agent;

/// What the names of these functions begin with.
const PREFIX: &str = "transfer_to_";
/// Longest name of a function.
const NAME_CHARACTERS: usize = 64;

/// A function that hands over.
#[derive(Clone, Debug)]
pub(in crate::api) struct Handoff {
    /// The function's name.
    pub(in crate::api) name: String,
    /// Who goes on.
    pub(in crate::api) target: Agent,
}

/// One function for each target: its name is `transfer_to_` and what a function's name can have of the agent's, with a
/// number if another function is called so already.
pub(in crate::api) fn offered(tools: &[Value], targets: Vec<Agent>) -> Vec<Handoff> {
    let mut taken: Vec<String> =
        tools.iter().filter_map(|tool| tool["function"]["name"].as_str().map(str::to_owned)).collect();
    let mut offered = Vec::new();
    for target in targets {
        let name = (1..).map(|attempt| function_name(&target.definition.name, attempt));
        let name = { name }.find(|name| !taken.contains(name)).expect("there are more numbers than functions");
        taken.push(name.clone());
        offered.push(Handoff { name, target });
    }
    offered
}

impl Handoff {
    /// The function, as a chat has it.
    pub(in crate::api) fn function(&self) -> Value {
        let body: Option<Value> = serde_json::from_str(&self.target.definition.body).ok();
        let description = body.as_ref().and_then(|body| body["description"].as_str()).filter(|text| !text.is_empty());
        let description = match description {
            Some(text) => format!("Hand the conversation over to {}: {text}", self.target.definition.name),
            None => format!("Hand the conversation over to {}.", self.target.definition.name),
        };
        let parameters = json!({ "type": "object", "properties": {} });
        json!({
            "type": "function",
            "function": { "name": self.name, "description": description, "parameters": parameters },
        })
    }
}

/// The name of the function that hands over to an agent of that name.
pub(in crate::api) fn function_name(agent: &str, attempt: usize) -> String {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
    let number = if attempt == 1 { String::new() } else { format!("_{attempt}") };
    let room = NAME_CHARACTERS - PREFIX.len() - number.len();
    let letters: String = agent.chars().map(|letter| if fits(letter) { letter } else { '_' }).take(room).collect();
    format!("{PREFIX}{letters}{number}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::AgentDefinition;

    fn agent(name: &str) -> Agent {
        let body = r#"{"description": "Knows all."}"#.to_owned();
        let definition = AgentDefinition { name: name.to_owned(), metadata: "{}".to_owned(), body };
        Agent { id: "a".to_owned(), created_at: 0, versions: vec![0], version: 0, version_created_at: 0, definition }
    }

    #[test]
    fn names_are_those_of_functions_and_differ() {
        let tools = [json!({ "type": "function", "function": { "name": "transfer_to_Ann" } })];
        let targets = ["Ann", "Ann", "Zoë & co", &"x".repeat(200)].map(agent).to_vec();
        let offered = offered(&tools, targets);
        let names: Vec<&str> = offered.iter().map(|handoff| handoff.name.as_str()).collect();
        let long = format!("transfer_to_{}", "x".repeat(52));
        assert_eq!(names, ["transfer_to_Ann_2", "transfer_to_Ann_3", "transfer_to_Zo____co", &long]);
        let function = offered[0].function();
        assert_eq!(function["function"]["description"], "Hand the conversation over to Ann: Knows all.");
    }
}
