//! Truncated, corrupt and hostile files: each gives an error that names what is wrong, quickly and without
//! allocating what a file merely claims.

use std::time::{Duration, Instant};

use candle_core::Device;
use expect_test::{Expect, expect};

use super::*;
use crate::model::checkpoint::{ComputeDtype, NoProgress};

/// Replaces the weights of a sound checkpoint and compares the refusal.
fn check(file: &[u8], expected: Expect) {
    let dir = copy_of("mistral-tied");
    fs::write(dir.path().join("model.safetensors"), file).unwrap();
    let start = Instant::now();
    let refusal = refusal(dir.path());
    assert!(start.elapsed() < Duration::from_secs(5), "{refusal}");
    expected.assert_eq(&refusal);
}

fn check_header(header: &str, n_data: usize, expected: Expect) {
    check(&safetensors(header, &vec![0; n_data]), expected);
}

#[test]
fn every_truncation_is_refused() {
    let dir = copy_of("mistral-tied");
    let file = dir.path().join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let near = |point: usize| point.saturating_sub(3)..=(point + 3).min(bytes.len() - 1);
    let points = (0..bytes.len()).step_by(997).chain(near(8)).chain(near(header)).chain(near(bytes.len() - 1));
    for length in points {
        fs::write(&file, &bytes[..length]).unwrap();
        assert!(Checkpoint::open(dir.path()).is_err(), "cut at {length} of {}", bytes.len());
    }
    fs::write(&file, [bytes.as_slice(), &[0]].concat()).unwrap();
    assert!(Checkpoint::open(dir.path()).is_err(), "one byte too many");
}

#[test]
fn every_truncated_configuration_is_refused() {
    for (case, name) in [
        ("ministral3", "config.json"),
        ("native-ministral3", "params.json"),
        ("sharded", "model.safetensors.index.json"),
    ] {
        let dir = copy_of(case);
        let path = dir.path().join(name);
        let text = fs::read(&path).unwrap();
        let end = text.iter().rposition(|byte| *byte == b'}').unwrap();
        for length in (0..end).step_by(7) {
            fs::write(&path, &text[..length]).unwrap();
            assert!(Checkpoint::open(dir.path()).is_err(), "{name} cut at {length}");
        }
    }
}

/// Flips every 23rd bit of the header, one at a time: an error or a sound checkpoint, never a panic.
#[test]
fn flipped_header_bits_never_panic() {
    let dir = copy_of("mistral-tied");
    let file = dir.path().join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for bit in (0..header * 8).step_by(23) {
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&file, &bytes).unwrap();
        if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
            // A changed name inside the metadata, say; what opens must also load.
            checkpoint.load(ComputeDtype::F32, &Device::Cpu, &NoProgress).unwrap();
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn header_lengths_are_bounded_by_the_file() {
    check(&[], expect!["DIR/model.safetensors: the size is 0 bytes, expected at least 8"]);
    check(
        &[0; 8],
        expect![
            "DIR/model.safetensors: the header is unreadable (EOF while parsing a value at line 1 column 0), expected an object of tensors"
        ],
    );
    check(
        &u64::MAX.to_le_bytes(),
        expect!["DIR/model.safetensors: the header length is 18446744073709551615, expected at most 0"],
    );
    check(
        &[&1000u64.to_le_bytes()[..], b"{}"].concat(),
        expect!["DIR/model.safetensors: the header length is 1000, expected at most 2"],
    );
    check(
        &[&99_999_999u64.to_le_bytes()[..], &[b' '; 64]].concat(),
        expect!["DIR/model.safetensors: the header length is 99999999, expected at most 64"],
    );
}

#[test]
fn headers_are_objects_of_sound_tensors() {
    check_header(
        "{}",
        0,
        expect!["DIR: tensor model.embed_tokens.weight is missing, expected BF16 or F16 or F32 [512, 64]"],
    );
    check_header(
        "[]",
        0,
        expect![
            "DIR/model.safetensors: the header is unreadable (invalid type: sequence, expected an object at line 1 column 0), expected an object of tensors"
        ],
    );
    check(
        &safetensors("{}", b"x"),
        expect!["DIR/model.safetensors: the data after the header is 1 bytes, expected 0, the sum of all tensors"],
    );
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"x": {{"dtype": {dtype}, "shape": {shape}, "data_offsets": {offsets}}}}}"#)
    };
    check_header(
        &tensor(r#""F32""#, "[1]", "[0, 8]"),
        8,
        expect!["DIR/model.safetensors: tensor x is F32 [1] in 8 bytes, expected 4 bytes"],
    );
    check_header(
        &tensor(r#""F32""#, "[1]", "[4, 0]"),
        8,
        expect!["DIR/model.safetensors: tensor x is at bytes 4..0, expected a range within 0..8"],
    );
    check_header(
        &tensor(r#""F32""#, "[1]", "[4, 12]"),
        8,
        expect!["DIR/model.safetensors: tensor x is at bytes 4..12, expected a range within 0..8"],
    );
    check_header(
        &tensor(r#""F32""#, "[1]", "[4, 8]"),
        8,
        expect!["DIR/model.safetensors: tensor x is at byte 4, expected byte 0, where the tensor before it ends"],
    );
    check_header(
        &tensor(r#""F32""#, "[-1]", "[0, 8]"),
        8,
        expect![
            "DIR/model.safetensors: tensor x is unreadable (invalid value: integer `-1`, expected usize at line 1 column 29), expected an object of dtype, shape and data_offsets in range"
        ],
    );
    check_header(
        &tensor(r#""F32""#, "[4294967296, 4294967296, 4294967296]", "[0, 8]"),
        8,
        expect![
            "DIR/model.safetensors: tensor x is F32 [4294967296, 4294967296, 4294967296] in 8 bytes, expected fewer elements"
        ],
    );
    check_header(
        &tensor(r#""F32""#, "[18446744073709551615]", "[0, 8]"),
        8,
        expect!["DIR/model.safetensors: tensor x is F32 [18446744073709551615] in 8 bytes, expected fewer elements"],
    );
    check_header(
        &tensor(r#""F32""#, "[1]", "[0, 18446744073709551615]"),
        8,
        expect!["DIR/model.safetensors: tensor x is at bytes 0..18446744073709551615, expected a range within 0..8"],
    );
    check_header(
        &tensor(r#""F31""#, "[1]", "[0, 4]"),
        4,
        expect![[r#"DIR/model.safetensors: tensor x is of type "F31", expected a safetensors type"#]],
    );
    check_header(
        &tensor("null", "[1]", "[0, 4]"),
        4,
        expect![
            "DIR/model.safetensors: tensor x is unreadable (invalid type: null, expected a string at line 1 column 14), expected an object of dtype, shape and data_offsets in range"
        ],
    );
    check_header(
        &tensor(r#""F32""#, &format!("[{}1]", "1,".repeat(1_000_000)), "[0, 4]"),
        4,
        expect![
            "DIR/model.safetensors: tensor x is unreadable (invalid length 9, expected at most 8 sizes at line 1 column 45), expected an object of dtype, shape and data_offsets in range"
        ],
    );
    check_header(
        r#"{"x": 3}"#,
        0,
        expect![
            "DIR/model.safetensors: tensor x is unreadable (invalid type: integer `3`, expected struct RawEntry at line 1 column 1), expected an object of dtype, shape and data_offsets in range"
        ],
    );
    check_header(
        "{\"x\u{0}",
        0,
        expect![[
            r#"DIR/model.safetensors: the header is unreadable (control character (\\u0000-\\u001F) found while parsing a string at line 1 column 4), expected an object of tensors"#
        ]],
    );
    check(
        &[&4u64.to_le_bytes()[..], &[0xff; 4]].concat(),
        expect![
            "DIR/model.safetensors: the header is invalid utf-8 sequence of 1 bytes from index 0, expected UTF-8 text"
        ],
    );
}

#[test]
fn names_and_bytes_belong_to_one_tensor() {
    let entry = |offsets: &str| format!(r#"{{"dtype": "U8", "shape": [4], "data_offsets": {offsets}}}"#);
    let twice = format!(r#"{{"x": {}, "x": {}}}"#, entry("[0, 4]"), entry("[4, 8]"));
    check_header(
        &twice,
        8,
        expect![
            "DIR/model.safetensors: the header is unreadable (tensor x appears twice at line 1 column 120), expected an object of tensors"
        ],
    );
    let overlapping = format!(r#"{{"x": {}, "y": {}}}"#, entry("[0, 4]"), entry("[2, 6]"));
    check_header(
        &overlapping,
        6,
        expect!["DIR/model.safetensors: tensor y is at byte 2, expected byte 4, where the tensor before it ends"],
    );
    let same = format!(r#"{{"x": {}, "y": {}}}"#, entry("[0, 4]"), entry("[0, 4]"));
    assert!(matches!(refuse_file(&same, 4), CheckpointError::Tensor { .. }));
}

fn refuse_file(header: &str, n_data: usize) -> CheckpointError {
    let dir = copy_of("mistral-tied");
    fs::write(dir.path().join("model.safetensors"), safetensors(header, &vec![0; n_data])).unwrap();
    Checkpoint::open(dir.path()).unwrap_err()
}

#[test]
fn deep_nesting_ends_in_an_error() {
    for depth in [1_000, 1_000_000] {
        let deep = "[".repeat(depth);
        refuse_file(&deep, 0);
        refuse_file(&format!(r#"{{"x": {deep}{}}}"#, "]".repeat(depth)), 0);
        refuse_file(
            &format!(
                r#"{{"x": {{"dtype": "U8", "shape": [], "data_offsets": [0, 1], "more": {deep}{}}}}}"#,
                "]".repeat(depth)
            ),
            0,
        );
        refuse_file(&r#"{"x":"#.repeat(depth), 0);
        let dir = copy_of("mistral-tied");
        for text in
            [deep.clone(), format!(r#"{{"rope_scaling": {deep}{}}}"#, "]".repeat(depth)), r#"{"a":"#.repeat(depth)]
        {
            fs::write(dir.path().join("config.json"), text).unwrap();
            assert!(matches!(Checkpoint::open(dir.path()), Err(CheckpointError::Json { .. })));
        }
    }
}

#[test]
fn configurations_are_json_objects_of_bounded_size() {
    let refuse = |text: &[u8], expected: Expect| {
        let dir = copy_of("mistral-tied");
        fs::write(dir.path().join("config.json"), text).unwrap();
        expected.assert_eq(&refusal(dir.path()));
    };
    refuse(b"", expect!["DIR/config.json: not valid JSON: EOF while parsing a value at line 1 column 0"]);
    refuse(b"null", expect!["DIR/config.json: the outermost value is null, expected an object"]);
    refuse(b"{}", expect!["DIR/config.json: model_type is missing, expected a string"]);
    refuse(br#"{"rms_norm_eps": NaN}"#, expect!["DIR/config.json: not valid JSON: expected value at line 1 column 18"]);
    refuse(
        br#"{"rms_norm_eps": 1e999}"#,
        expect!["DIR/config.json: not valid JSON: number out of range at line 1 column 22"],
    );
    refuse(&[0xff, 0xfe], expect!["DIR/config.json: not valid JSON: expected value at line 1 column 1"]);
    refuse(
        &vec![b' '; (16 << 20) + 1],
        expect!["DIR/config.json: the size is 16777217 bytes, expected at most 16777216"],
    );
}

#[test]
fn directories_and_missing_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    expect!["DIR: no config.json with model*.safetensors, nor params.json with consolidated*.safetensors, found"]
        .assert_eq(&refusal(dir.path()));
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(Checkpoint::open(&file), Err(CheckpointError::Io { .. })));
    assert!(matches!(Checkpoint::open(&dir.path().join("absent")), Err(CheckpointError::Io { .. })));

    for name in ["config.json", "model.safetensors", "generation_config.json"] {
        let dir = copy_of("mistral-tied");
        let path = dir.path().join(name);
        if path.exists() {
            fs::remove_file(&path).unwrap();
        }
        fs::create_dir(&path).unwrap();
        assert_eq!(refusal(dir.path()), format!("DIR/{name}: this is a directory, expected a regular file"));
    }
}

#[test]
fn an_index_cannot_point_outside() {
    let point_to = |name: Value| {
        let dir = copy_of("sharded");
        let index = dir.path().join("model.safetensors.index.json");
        edit(&index, |value| value["weight_map"]["lm_head.weight"] = name);
        refusal(dir.path())
    };
    for name in [
        "../x.safetensors",
        "/etc/x.safetensors",
        "a/b.safetensors",
        "..",
        "",
        "C:x.safetensors",
        "a\\b.safetensors",
        ".x.safetensors",
        "config.json",
    ] {
        let message = point_to(json!(name));
        assert!(
            message.starts_with("DIR/model.safetensors.index.json: the file of tensor lm_head.weight is "),
            "{message}"
        );
    }
    assert!(point_to(json!(7)).contains("the file of tensor lm_head.weight is 7"));
    assert!(point_to(json!("absent.safetensors")).starts_with("DIR/absent.safetensors: No such file"));
    let moved = point_to(json!("model-00002-of-00003.safetensors"));
    expect!["DIR/model.safetensors.index.json: tensor lm_head.weight is in DIR/model-00001-of-00003.safetensors, expected in DIR/model-00002-of-00003.safetensors, as the index says"].assert_eq(&moved);

    let dir = copy_of("sharded");
    let index = dir.path().join("model.safetensors.index.json");
    for (weight_map, expected) in [
        (
            json!([]),
            expect![
                "DIR/model.safetensors.index.json: weight_map is a list of 0, expected an object of tensor names and file names"
            ],
        ),
        (json!({}), expect!["DIR/model.safetensors.index.json: the number of files is 0, expected between 1 and 4096"]),
    ] {
        edit(&index, |value| value["weight_map"] = weight_map);
        expected.assert_eq(&refusal(dir.path()));
    }
    fs::remove_file(&index).unwrap();
    assert!(Checkpoint::open(dir.path()).is_ok(), "shards are found without an index");
    fs::copy(dir.path().join("model-00002-of-00003.safetensors"), dir.path().join("model-00004-of-00003.safetensors"))
        .unwrap();
    assert!(refusal(dir.path()).ends_with("is also in DIR/model-00002-of-00003.safetensors, expected one file"));
}

#[test]
fn unknown_tensors_and_types_are_named() {
    let add = |name: &str, dtype: &str, shape: &[usize], bytes: &[u8]| {
        let dir = copy_of("fp8-static-hf");
        add_tensor(&dir.path().join("model.safetensors"), name, dtype, shape, bytes);
        dir
    };
    let bias = add("model.layers.0.self_attn.q_proj.bias", "BF16", &[1], &[0; 2]);
    expect!["DIR/model.safetensors: tensor model.layers.0.self_attn.q_proj.bias belongs to no known part of this architecture (1 such tensors)"].assert_eq(&refusal(bias.path()));
    let second_scale = add("model.layers.0.self_attn.q_proj.weight_scale", "BF16", &[], &[0; 2]);
    expect!["DIR/model.safetensors: tensor model.layers.0.self_attn.q_proj.weight_scale belongs to no known part of this architecture (1 such tensors)"].assert_eq(&refusal(second_scale.path()));
    let skipped = add("model.layers.0.self_attn.k_scale", "F32", &[], &[0; 4]);
    assert_eq!(Checkpoint::open(skipped.path()).unwrap().summary().skipped.tensors, 1);
}

#[test]
fn scales_must_fit_and_be_finite() {
    type Header = BTreeMap<String, Value>;
    let change = |change: &dyn Fn(&mut Header, &mut Vec<u8>)| {
        let dir = copy_of("fp8-ct-channel");
        let path = dir.path().join("model.safetensors");
        let (mut header, mut data) = take_apart(&path);
        change(&mut header, &mut data);
        fs::write(&path, safetensors(&serde_json::to_string(&header).unwrap(), &data)).unwrap();
        dir
    };
    let name = "model.layers.0.mlp.up_proj.weight_scale";
    let transposed = change(&|header, _| header.get_mut(name).unwrap()["shape"] = json!([1, 80]));
    expect!["DIR/model.safetensors: tensor model.layers.0.mlp.up_proj.weight_scale is BF16 [1, 80], expected BF16, F16 or F32 with one scale ([] or [1]), one per row ([80, 1]) or one per block ([1, 1])"].assert_eq(&refusal(transposed.path()));
    let integers = change(&|header, _| header.get_mut(name).unwrap()["dtype"] = json!("I16"));
    assert!(refusal(integers.path()).contains("weight_scale is I16 [80, 1], expected BF16, F16 or F32"));
    let renamed = change(&|header, _| {
        let scale = header.remove(name).unwrap();
        header.insert("vision_tower.scale".into(), scale);
    });
    expect!["DIR: tensor model.layers.0.mlp.up_proj.weight_scale_inv is missing, expected BF16 or F16 or F32 []"]
        .assert_eq(&refusal(renamed.path()));

    let infinite = change(&|header, data| {
        let start = header[name]["data_offsets"][0].as_u64().unwrap() as usize;
        data[start..start + 2].copy_from_slice(&[0x80, 0x7f]);
    });
    let checkpoint = Checkpoint::open(infinite.path()).unwrap();
    let error = checkpoint.load(ComputeDtype::F32, &Device::Cpu, &NoProgress).unwrap_err().to_string();
    assert!(error.ends_with("up_proj.weight_scale is inf somewhere, expected finite scales, none negative"), "{error}");
}

#[test]
fn stored_types_that_are_no_weights_are_refused() {
    let dir = copy_of("mistral-tied");
    let path = dir.path().join("model.safetensors");
    let (mut header, data) = take_apart(&path);
    header.get_mut("model.layers.0.mlp.up_proj.weight").unwrap()["dtype"] = json!("I16");
    fs::write(&path, safetensors(&serde_json::to_string(&header).unwrap(), &data)).unwrap();
    expect!["DIR/model.safetensors: tensor model.layers.0.mlp.up_proj.weight is I16 [80, 64], expected BF16 or F16 or F32 or F8_E4M3 [80, 64]"].assert_eq(&refusal(dir.path()));
}
