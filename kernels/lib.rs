//! Fused operators of the Mistral decoder, one folder each.
