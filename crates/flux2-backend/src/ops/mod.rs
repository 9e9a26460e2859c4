//! The ops: contracts and references.
