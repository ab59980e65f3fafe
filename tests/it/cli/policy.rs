//! Policies from the command line, and a running server that reads them again.

use std::{path::Path, process::Command};

use serde_json::Value;

use super::{check_failure, checkpoint, run, serve, tramontane, write};

#[track_caller]
fn succeeds(arguments: &[&str]) -> String {
    let ran = run(&mut tramontane(arguments));
    assert_eq!(ran.code, 0, "{}", ran.err);
    ran.out
}

#[test]
fn the_built_in_policies_are_a_beginning() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    write(directory.path(), "own.cedar", &succeeds(&["policy", "show"]));
    let checked = succeeds(&["policy", "check", path]);
    assert!(checked.starts_with("7 policies are right: admin, operator, "), "{checked}");
    let digest = |text: &str| serde_json::from_str::<Value>(text).unwrap()["digest"].as_str().unwrap().to_owned();
    assert_eq!(digest(&succeeds(&["policy", "check", path, "--json"])).len(), 64);
    assert!(succeeds(&["policy", "show", "--schema"]).contains("entity Principal"));
    write(directory.path(), "own.cedar", "permit (principal, action, resource) when { principal.height > 3 };");
    check_failure(&mut tramontane(&["policy", "check", path]), 2, &["own.cedar#1", "height"]);
    check_failure(&mut tramontane(&["policy", "check", "/nonexistent"]), 2, &["/nonexistent"]);
}

#[test]
fn cases_hold_or_the_exit_code_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let case = |expected: &str| {
        let text = format!(
            "[[case]]\nname = \"auditors\"\nroles = [\"auditor\"]\naction = \"infer\"\nmodel = \"m\"\nexpect = \"{expected}\"\n"
        );
        run(&mut tramontane(&["policy", "test", &write(directory.path(), "cases.toml", &text)]))
    };
    let holds = case("deny");
    assert_eq!((holds.code, holds.out.as_str()), (0, "1 of 1 cases hold\n"));
    let fails = case("allow");
    assert_eq!((fails.code, fails.out.as_str()), (1, "FAILED auditors: denied by no policy\n0 of 1 cases hold\n"));
    assert_eq!(case("maybe").code, 2);
}

#[test]
fn an_explanation_names_the_policy() {
    let explain = |arguments: &[&str]| succeeds(&[&["policy", "explain"], arguments].concat());
    assert_eq!(explain(&["infer", "tiny", "--role", "service"]), "allowed: permitted by service, of 7 considered\n");
    let denied = "denied: no policy permits it, of 7 considered\n";
    assert_eq!(explain(&["changeAdministration", "keys", "--role", "auditor"]), denied);
    assert_eq!(explain(&["infer", "tiny"]), denied);
    assert_eq!(explain(&["useTool", "roll", "--role", "service"]), "allowed: permitted by service, of 7 considered\n");
    assert_eq!(explain(&["useTool", "roll", "--role", "operator"]), denied);
    assert_eq!(explain(&["searchCollection", "handbook", "--role", "service"]), denied);
    check_failure(&mut tramontane(&["policy", "explain", "fly", "tiny"]), 2, &["fly", "infer"]);
}

#[test]
fn an_operators_policies_speak_of_tools_and_collections() {
    let directory = tempfile::tempdir().unwrap();
    let policies = r#"
        @id("tools") permit (principal, action == Tramontane::Action::"useTool", resource == Tramontane::Tool::"lookup");
        @id("reads") permit
            (principal, action == Tramontane::Action::"searchCollection", resource == Tramontane::Collection::"handbook");
        @id("secret") forbid (principal, action == Tramontane::Action::"searchCollection", resource)
        when { context has dataClassification && context.dataClassification == "secret" };
        @id("chats") forbid (principal, action == Tramontane::Action::"useTool", resource)
        when { context.route == "/v1/responses" };
    "#;
    write(directory.path(), "own.cedar", policies);
    let path = directory.path().to_str().unwrap();
    let explain = |arguments: &[&str]| {
        let told = succeeds(&[&["policy", "explain", "--policy-dir", path], arguments].concat());
        told.split(", of").next().unwrap().to_owned()
    };
    assert_eq!(explain(&["useTool", "lookup"]), "allowed: permitted by tools");
    assert_eq!(explain(&["useTool", "delete"]), "denied: no policy permits it");
    assert_eq!(explain(&["useTool", "lookup", "--route", "/v1/responses"]), "denied: forbidden by chats");
    assert_eq!(explain(&["searchCollection", "handbook"]), "allowed: permitted by reads");
    assert_eq!(explain(&["changeCollection", "handbook"]), "denied: no policy permits it");
    let secret = ["searchCollection", "handbook", "--data-classification", "secret"];
    assert_eq!(explain(&secret), "denied: forbidden by secret");
    let cases = "[[case]]\nname = \"lookup\"\naction = \"useTool\"\ntool = \"lookup\"\nexpect = \"allow\"\npolicy = \"tools\"\n\
                 [[case]]\nname = \"other\"\naction = \"searchCollection\"\ncollection = \"other\"\nexpect = \"deny\"\n";
    let cases = write(directory.path(), "cases.toml", cases);
    assert_eq!(succeeds(&["policy", "test", &cases, "--policy-dir", path]), "2 of 2 cases hold\n");
}

#[test]
fn a_running_server_reads_policies_again() {
    let (directory, policies, model) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkpoint::write(model.path());
    let key = |data: &Path| {
        let arguments = ["keys", "create", "app", "--role", "developer", "--data-dir", data.to_str().unwrap()];
        succeeds(&arguments).trim_end().to_owned()
    };
    let secret = key(directory.path());
    write(policies.path(), "own.cedar", "permit (principal, action, resource);");
    let mut server = serve::Server::start(
        model.path(),
        &[
            "--ephemeral=off",
            "--data-dir",
            directory.path().to_str().unwrap(),
            "--policy-dir",
            policies.path().to_str().unwrap(),
        ],
    );
    let models = |server: &serve::Server| server.get_as(&secret, "/v1/models")[..12].to_owned();
    assert_eq!(models(&server), "HTTP/1.1 200");
    let reread = |server: &mut serve::Server, text: &str, said: &str| {
        write(policies.path(), "own.cedar", text);
        assert!(Command::new("kill").args(["-HUP", &server.id()]).status().unwrap().success());
        server.log_until(said);
    };
    reread(&mut server, "permit (", "the policies are wrong");
    assert_eq!(models(&server), "HTTP/1.1 200");
    reread(&mut server, "forbid (principal, action, resource);", "the policies were read again");
    assert_eq!(models(&server), "HTTP/1.1 403");
}

#[test]
fn guardrails_are_read_before_the_port_is_opened_and_again_when_told_to() {
    let (model, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkpoint::write(model.path());
    let file = directory.path().join("guardrails.toml");
    let file = file.to_str().unwrap();
    let blocks = "[[guardrail]]\nname = \"words\"\nstage = \"input\"\nwords = [\"crane\"]\naction = \"block\"\n";
    write(directory.path(), "guardrails.toml", "[[guardrail]]\nname = \"words\"\n");
    let serve = ["serve", model.path().to_str().unwrap(), "--guardrails", file];
    check_failure(&mut tramontane(&serve), 2, &[file, "missing field `stage`"]);

    let nowhere = blocks.replace("words =", "routes = [\"/v1/chat\"]\nwords =");
    write(directory.path(), "guardrails.toml", &nowhere);
    check_failure(&mut tramontane(&serve), 2, &[file, "guardrail[0].routes[0]"]);

    write(directory.path(), "guardrails.toml", "");
    let mut server = serve::Server::start(model.path(), &["--guardrails", file]);
    let mut reread = |text: &str, said: &str| {
        write(directory.path(), "guardrails.toml", text);
        assert!(Command::new("kill").args(["-HUP", &server.id()]).status().unwrap().success());
        server.log_until(said);
    };
    reread("[[guardrail]]", "the guardrails are wrong");
    reread(&nowhere, "the guardrails are wrong");
    reread(blocks, "the guardrails were read again");
}
