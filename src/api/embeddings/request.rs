//! The body of an embedding request -> tokens of each text, and the form of the vectors.

use super::encoding::{BITS, ValueType, Vector, normalize};
use crate::api::{
    body::{Fields, wrong},
    dialect::{Dialect, Refusal},
    error::ApiError,
    fields,
    guard::Terms,
    params::take_model,
    state::ServedModel,
    texts::TextOptions,
};
use crate::types::Pooling;

/// An embedding request, checked.
pub(super) struct EmbeddingCall {
    pub(super) model_name: String,
    pub(super) dialect: Dialect,
    pub(super) options: TextOptions,
    pub(super) inputs: Vec<Vec<u32>>,
}

/// What becomes of a vector before it is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct VectorForm {
    /// Values that are kept.
    dimensions: usize,
    normalized: bool,
    value_type: ValueType,
    in_base64: bool,
}

impl EmbeddingCall {
    /// Reads a body.
    pub(super) fn parse(
        text: &str,
        head: Option<Dialect>,
        model: &ServedModel,
        terms: &Terms,
    ) -> Result<(Self, VectorForm), Refusal> {
        let fields = Fields::parse(text, &fields::EMBEDDINGS)?;
        let dialect = Dialect::of_embedding(head, &fields);
        Self::read(fields, dialect, model, terms).map_err(|error| dialect.refuse(error))
    }

    fn read(
        mut fields: Fields,
        dialect: Dialect,
        model: &ServedModel,
        terms: &Terms,
    ) -> Result<(Self, VectorForm), ApiError> {
        let model_name = take_model(&mut fields, model)?;
        let form = VectorForm::take(&mut fields, model)?;
        let options = TextOptions::take(&mut fields, terms)?;
        let inputs = options.take_inputs(&mut fields, "input", model)?;
        fields.finish()?;
        Ok((Self { model_name, dialect, options, inputs }, form))
    }
}

impl VectorForm {
    fn take(fields: &mut Fields, model: &ServedModel) -> Result<Self, ApiError> {
        let (width, normalized) = match &model.pooling {
            Pooling::Embedding { width, normalized, .. } => (*width, *normalized),
            Pooling::Classes { .. } => {
                let message = "This model classifies texts and has no embeddings: use `/classify`.";
                return Err(ApiError::invalid("model", message));
            }
        };
        let value_type = match fields.string("output_dtype")? {
            None => ValueType::Float,
            Some(name) => ValueType::from_name(&name)
                .ok_or_else(|| wrong("output_dtype", "float, int8, uint8, binary or ubinary", &name.into()))?,
        };
        let in_base64 = match fields.string("encoding_format")?.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(other) => return Err(wrong("encoding_format", "float or base64", &other.into())),
        };
        Ok(Self {
            dimensions: take_dimensions(fields, width, value_type)?,
            normalized: fields.flag("normalize")?.unwrap_or(normalized),
            value_type,
            in_base64,
        })
    }

    /// The vector as it is sent. What is cut off leaves a shorter vector, which is scaled again.
    pub(super) fn write(&self, mut vector: Vec<f32>) -> Vector {
        vector.truncate(self.dimensions);
        if self.normalized {
            normalize(&mut vector);
        }
        let vector = self.value_type.quantize(vector);
        if self.in_base64 { vector.in_base64() } else { vector }
    }
}

/// OpenAI's `dimensions` and Mistral's `output_dimension` are the same.
fn take_dimensions(fields: &mut Fields, width: usize, value_type: ValueType) -> Result<usize, ApiError> {
    let dimensions = fields.count("dimensions", 1..=width)?;
    let output_dimension = fields.count("output_dimension", 1..=width)?;
    if let (Some(one), Some(other)) = (dimensions, output_dimension)
        && one != other
    {
        let message = "`dimensions` and `output_dimension` are the same; give one of them.";
        return Err(ApiError::invalid("output_dimension", message));
    }
    let name = if dimensions.is_some() { "dimensions" } else { "output_dimension" };
    let kept = dimensions.or(output_dimension).unwrap_or(width);
    if value_type.is_binary() && !kept.is_multiple_of(BITS) {
        return Err(wrong(name, "a multiple of 8 where `output_dtype` packs bits into bytes", &kept.into()));
    }
    Ok(kept)
}
