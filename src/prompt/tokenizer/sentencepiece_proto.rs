//! The few fields of a SentencePiece `.model` file that encoding needs.
//!
//! Main type: [`ModelProto`]. The file is a protocol buffer (`sentencepiece_model.proto`): fields of
//! a number and a wire type, nested by length. [`Fields`] walks them over a borrowed slice. Every
//! length is checked against the bytes that are there before anything is sliced, and nothing is
//! allocated by a length.

/// `ModelProto`, without what only training uses.
#[derive(Debug)]
pub(super) struct ModelProto<'a> {
    pub(super) pieces: Vec<PieceProto<'a>>,
    pub(super) trainer: TrainerSpec<'a>,
    pub(super) normalizer: NormalizerSpec<'a>,
}

/// `ModelProto.SentencePiece`.
#[derive(Debug)]
pub(super) struct PieceProto<'a> {
    pub(super) piece: &'a str,
    pub(super) score: f32,
    pub(super) kind: PieceKind,
}

/// `ModelProto.SentencePiece.Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PieceKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// `TrainerSpec`.
#[derive(Debug)]
pub(super) struct TrainerSpec<'a> {
    /// 1 unigram, 2 BPE, 3 word, 4 char.
    pub(super) model_type: u64,
    pub(super) treat_whitespace_as_suffix: bool,
    pub(super) byte_fallback: bool,
    pub(super) unk_surface: &'a str,
    pub(super) bos_piece: &'a str,
    pub(super) eos_piece: &'a str,
}

/// `NormalizerSpec`.
#[derive(Debug)]
pub(super) struct NormalizerSpec<'a> {
    pub(super) precompiled_charsmap: &'a [u8],
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
    pub(super) escape_whitespaces: bool,
}

/// A field's payload.
#[derive(Debug, Clone, Copy)]
enum Payload<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Fixed64,
    Bytes(&'a [u8]),
}

impl<'a> ModelProto<'a> {
    /// Parses a file, or says what is wrong with it.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<ModelProto<'a>, String> {
        let mut model =
            ModelProto { pieces: Vec::new(), trainer: TrainerSpec::new(), normalizer: NormalizerSpec::new() };
        for field in Fields::over(bytes) {
            match field? {
                (1, Payload::Bytes(message)) => {
                    let piece = PieceProto::parse(message);
                    model.pieces.push(piece.map_err(|error| format!("piece {}: {error}", model.pieces.len()))?);
                }
                (2, Payload::Bytes(message)) => model.trainer.read(message)?,
                (3, Payload::Bytes(message)) => model.normalizer.read(message)?,
                (_, Payload::Varint(_) | Payload::Fixed32(_) | Payload::Fixed64 | Payload::Bytes(_)) => {}
            }
        }
        Ok(model)
    }
}

impl<'a> PieceProto<'a> {
    fn parse(bytes: &'a [u8]) -> Result<PieceProto<'a>, String> {
        let mut piece = PieceProto { piece: "", score: 0.0, kind: PieceKind::Normal };
        for field in Fields::over(bytes) {
            match field? {
                (1, Payload::Bytes(text)) => piece.piece = utf8(text)?,
                (2, Payload::Fixed32(bits)) => piece.score = f32::from_le_bytes(bits),
                (3, Payload::Varint(number)) => piece.kind = PieceKind::from_number(number)?,
                (_, Payload::Varint(_) | Payload::Fixed32(_) | Payload::Fixed64 | Payload::Bytes(_)) => {}
            }
        }
        Ok(piece)
    }
}

impl PieceKind {
    fn from_number(number: u64) -> Result<PieceKind, String> {
        match number {
            1 => Ok(PieceKind::Normal),
            2 => Ok(PieceKind::Unknown),
            3 => Ok(PieceKind::Control),
            4 => Ok(PieceKind::UserDefined),
            5 => Ok(PieceKind::Unused),
            6 => Ok(PieceKind::Byte),
            other => Err(format!("unknown piece type {other}")),
        }
    }
}

impl<'a> TrainerSpec<'a> {
    /// The defaults of the .proto file.
    fn new() -> TrainerSpec<'a> {
        TrainerSpec {
            model_type: 1,
            treat_whitespace_as_suffix: false,
            byte_fallback: false,
            unk_surface: " \u{2047} ",
            bos_piece: "<s>",
            eos_piece: "</s>",
        }
    }

    fn read(&mut self, bytes: &'a [u8]) -> Result<(), String> {
        for field in Fields::over(bytes) {
            match field? {
                (3, Payload::Varint(number)) => self.model_type = number,
                (24, Payload::Varint(flag)) => self.treat_whitespace_as_suffix = flag != 0,
                (35, Payload::Varint(flag)) => self.byte_fallback = flag != 0,
                (44, Payload::Bytes(text)) => self.unk_surface = utf8(text)?,
                (46, Payload::Bytes(text)) => self.bos_piece = utf8(text)?,
                (47, Payload::Bytes(text)) => self.eos_piece = utf8(text)?,
                (_, Payload::Varint(_) | Payload::Fixed32(_) | Payload::Fixed64 | Payload::Bytes(_)) => {}
            }
        }
        Ok(())
    }
}

impl<'a> NormalizerSpec<'a> {
    /// The defaults of the .proto file.
    fn new() -> NormalizerSpec<'a> {
        NormalizerSpec {
            precompiled_charsmap: &[],
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        }
    }

    fn read(&mut self, bytes: &'a [u8]) -> Result<(), String> {
        for field in Fields::over(bytes) {
            match field? {
                (2, Payload::Bytes(map)) => self.precompiled_charsmap = map,
                (3, Payload::Varint(flag)) => self.add_dummy_prefix = flag != 0,
                (4, Payload::Varint(flag)) => self.remove_extra_whitespaces = flag != 0,
                (5, Payload::Varint(flag)) => self.escape_whitespaces = flag != 0,
                (_, Payload::Varint(_) | Payload::Fixed32(_) | Payload::Fixed64 | Payload::Bytes(_)) => {}
            }
        }
        Ok(())
    }
}

/// The fields of one message, in order. Stops at the first error.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn over(bytes: &'a [u8]) -> Fields<'a> {
        Fields { rest: bytes }
    }

    fn field(&mut self) -> Result<(u64, Payload<'a>), String> {
        let key = self.varint()?;
        let payload = match key & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Payload::Fixed64
            }
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).map_err(|_| "truncated".to_owned())?;
                Payload::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Payload::Fixed32([bytes[0], bytes[1], bytes[2], bytes[3]])
            }
            other => return Err(format!("not a protocol buffer (wire type {other})")),
        };
        Ok((key >> 3, payload))
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("not a protocol buffer (a number of more than ten bytes)".to_owned())
    }

    fn take(&mut self, n_bytes: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(n_bytes).ok_or_else(|| "truncated".to_owned())?;
        self.rest = rest;
        Ok(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Payload<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| format!("text that is not UTF-8: {error}"))
}
