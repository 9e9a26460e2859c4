//! A dictionary of tensors from a pickle, by a stack machine that knows no calls.
//!
//! In:  the bytes of `data.pkl`. Out: nested dictionaries, and tensors with the names of their storages.
//!
//! Instructions are those of Python's `pickletools`. Values are small and copied; dictionaries, tuples and tensors are
//! numbers that refer to tables, so that no nesting recurses. The number of instructions is limited, and with it
//! memory.

use std::ops::Range;

use super::PthProblem;
use crate::tensor_file::{MAX_AXES, MAX_TENSORS, StoredDType};
use flux2_backend::DType;

/// Longest pickle accepted, in bytes.
const MAX_BYTES: usize = 64 << 20;
/// Most instructions accepted. A tensor takes about 60; the largest upscaler has 702, perhaps in two copies.
const MAX_INSTRUCTIONS: usize = 1 << 18;
/// Most values on the stack, and most that are remembered.
const MAX_VALUES: usize = 1 << 16;
/// Most dictionaries. Every tensor brings an empty one.
const MAX_DICTIONARIES: usize = 2 * MAX_TENSORS;

/// Longest text that is read, in bytes: longer ones are no names.
const MAX_TEXT: usize = 1 << 10;

/// A value of the machine.
#[derive(Clone, Copy)]
enum Value {
    /// A number.
    Int(i64),
    /// Bytes of the pickle, UTF-8.
    Text(Slice),
    /// Values in the table of items.
    Tuple(Slice),
    /// Index in the table of dictionaries.
    Dictionary(u32),
    /// Index in the table of storages.
    Storage(u32),
    /// Index in the table of tensors.
    Tensor(u32),
    Symbol(Symbol),
    /// Something that no tensor depends on: None, a truth value, a fraction, a list.
    Other,
}

/// First and last index of a part of a table.
#[derive(Clone, Copy)]
struct Slice(u32, u32);

impl Slice {
    fn range(self) -> Range<usize> {
        self.0 as usize..self.1 as usize
    }
}

/// A Python object that is known by name. It is never called.
#[derive(Clone, Copy)]
enum Symbol {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(StoredDType),
}

/// A storage that tensors refer to.
#[derive(Clone, Copy)]
struct Storage {
    dtype: StoredDType,
    key: Slice,
    elements: usize,
}

/// A tensor over a storage. Nothing about it is checked but its number of axes.
pub(super) struct Tensor {
    pub dtype: StoredDType,
    /// Name of the member below `data/`.
    pub key: String,
    /// Number of elements of the storage.
    pub elements: usize,
    /// First element in the storage.
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// What a pickle holds.
pub(super) struct Pickled<'a> {
    machine: Machine<'a>,
    top: Value,
}

impl Pickled<'_> {
    /// The tensors of the dictionary that the file is about, by name: the top one, or the first that it holds under one
    /// of `names`, or the only thing that it holds. Other values are passed over.
    pub fn dictionary(&self, names: &[&str]) -> Result<impl Iterator<Item = (&str, &Tensor)>, PthProblem> {
        let entries = |value: Value| match value {
            Value::Dictionary(index) => Some(&self.machine.dictionaries[index as usize]),
            _ => None,
        };
        let mut chosen = entries(self.top).ok_or(PthProblem::NoTensors)?;
        let named = |name: &str| {
            let inner = chosen.iter().rev().find(|(key, _)| self.machine.text(*key).is_some_and(|text| text == name));
            inner.and_then(|(_, value)| entries(*value))
        };
        let only = || if let [(_, value)] = chosen[..] { entries(value) } else { None };
        if let Some(inner) = names.iter().find_map(|name| named(name)).or_else(only) {
            chosen = inner;
        }
        Ok(chosen.iter().filter_map(|(key, value)| match value {
            Value::Tensor(index) => Some((self.machine.text(*key)?, &self.machine.tensors[*index as usize])),
            _ => None,
        }))
    }
}

/// Runs a pickle.
pub(super) fn read(pickle: &[u8]) -> Result<Pickled<'_>, PthProblem> {
    if pickle.len() > MAX_BYTES {
        return Err(PthProblem::TooMany { what: "bytes", max: MAX_BYTES });
    }
    let mut machine = Machine {
        pickle,
        at: 0,
        stack: vec![],
        marks: vec![],
        memo: vec![],
        items: vec![],
        dictionaries: vec![],
        storages: vec![],
        tensors: vec![],
    };
    for _ in 0..MAX_INSTRUCTIONS {
        if let Some(top) = machine.step()? {
            return Ok(Pickled { machine, top });
        }
    }
    Err(PthProblem::TooMany { what: "instructions", max: MAX_INSTRUCTIONS })
}

/// The state of the machine: its stack, its memory, and the tables that values refer to.
struct Machine<'a> {
    pickle: &'a [u8],
    /// Of the next byte.
    at: usize,
    stack: Vec<Value>,
    /// Lengths of the stack at its marks.
    marks: Vec<usize>,
    memo: Vec<Value>,
    items: Vec<Value>,
    dictionaries: Vec<Vec<(Value, Value)>>,
    storages: Vec<Storage>,
    tensors: Vec<Tensor>,
}

impl<'a> Machine<'a> {
    /// Runs one instruction. Returns the result at the end.
    fn step(&mut self) -> Result<Option<Value>, PthProblem> {
        let opcode = self.take(1)?[0];
        match opcode {
            b'.' => return self.pop().map(Some),                         // STOP
            0x80 => drop(self.take(1)?),                                 // PROTO
            0x95 => drop(self.take(8)?),                                 // FRAME
            b'(' => self.mark()?,                                        // MARK
            b'0' => drop(self.pop()?),                                   // POP
            b'N' | 0x88 | 0x89 => self.push(Value::Other)?,              // NONE, NEWTRUE, NEWFALSE
            b'G' => self.take(8).and_then(|_| self.push(Value::Other))?, // BINFLOAT
            b'J' | b'K' | b'M' | 0x8a => self.integer(opcode)?,
            b'X' => self.text_of::<4>()?,                           // BINUNICODE
            0x8c => self.text_of::<1>()?,                           // SHORT_BINUNICODE
            b'}' => self.new_dictionary()?,                         // EMPTY_DICT
            b']' => self.push(Value::Other)?,                       // EMPTY_LIST
            b')' => self.tuple(0)?,                                 // EMPTY_TUPLE
            0x85..=0x87 => self.tuple(usize::from(opcode - 0x84))?, // TUPLE1, TUPLE2, TUPLE3
            b't' => {
                let count = self.since_mark()?; // TUPLE
                self.tuple(count)?;
            }
            b'l' => self.drop_since_mark().and_then(|()| self.push(Value::Other))?, // LIST
            b'a' => drop(self.pop()?),                                              // APPEND
            b'e' => self.drop_since_mark()?,                                        // APPENDS
            b'd' => {
                let count = self.since_mark()?; // DICT
                let entries = self.stack.split_off(self.stack.len() - count);
                self.new_dictionary()?;
                self.set_items(&entries)?;
            }
            b's' => {
                let entry = [self.pop()?, self.pop()?]; // SETITEM
                self.set_items(&[entry[1], entry[0]])?;
            }
            b'u' => {
                let count = self.since_mark()?; // SETITEMS
                let entries = self.stack.split_off(self.stack.len() - count);
                self.set_items(&entries)?;
            }
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.memory(opcode)?,
            b'c' => self.global()?, // GLOBAL
            0x93 => {
                let [name, module] = [self.pop()?, self.pop()?]; // STACK_GLOBAL
                let (Some(module), Some(name)) = (self.text(module), self.text(name)) else {
                    return Err(self.damaged("a name that is no text"));
                };
                let symbol = symbol(module, name)?;
                self.push(Value::Symbol(symbol))?;
            }
            b'R' => self.reduce()?,
            // The state of a dictionary: `_metadata`, which no tensor depends on.
            b'b' => match (self.pop()?, self.stack.last()) {
                (_, Some(Value::Dictionary(_))) => {}
                _ => return Err(PthProblem::Forbidden { name: "BUILD of something else than a dictionary".into() }),
            },
            b'Q' => self.persistent()?, // BINPERSID
            0x81 | 0x92 | b'i' | b'o' => {
                return Err(PthProblem::Forbidden { name: "a new object of a class".into() }); // NEWOBJ, INST, OBJ
            }
            _ => return Err(PthProblem::Opcode { opcode, at: self.at - 1 }),
        }
        Ok(None)
    }

    // ---- bytes ----

    fn damaged(&self, what: &'static str) -> PthProblem {
        PthProblem::Pickle { what, at: self.at }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], PthProblem> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.pickle.len());
        let range = self.at..end.ok_or(self.damaged("it ends in the middle"))?;
        self.at = range.end;
        Ok(&self.pickle[range])
    }

    /// A little-endian number of `N` bytes without sign.
    fn number<const N: usize>(&mut self) -> Result<usize, PthProblem> {
        Ok(self.take(N)?.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
    }

    /// A line without its end.
    fn line(&mut self) -> Result<&'a str, PthProblem> {
        let end = self.pickle[self.at..].iter().take(1 << 10).position(|byte| *byte == b'\n');
        let line = self.take(end.ok_or(self.damaged("a name without an end"))? + 1)?;
        std::str::from_utf8(&line[..line.len() - 1]).map_err(|_| self.damaged("a name that is not UTF-8"))
    }

    // ---- the stack ----

    fn push(&mut self, value: Value) -> Result<(), PthProblem> {
        if self.stack.len() == MAX_VALUES {
            return Err(PthProblem::TooMany { what: "values on its stack", max: MAX_VALUES });
        }
        self.stack.push(value);
        Ok(())
    }

    /// The value on top, which must lie above the last mark.
    fn pop(&mut self) -> Result<Value, PthProblem> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => Ok(self.stack.pop().expect("longer than its floor")),
            false => Err(self.damaged("a value is missing")),
        }
    }

    fn mark(&mut self) -> Result<(), PthProblem> {
        if self.marks.len() == MAX_VALUES {
            return Err(PthProblem::TooMany { what: "marks on its stack", max: MAX_VALUES });
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// Number of values since the last mark, which is removed.
    fn since_mark(&mut self) -> Result<usize, PthProblem> {
        let mark = self.marks.pop().ok_or(self.damaged("a mark is missing"))?;
        Ok(self.stack.len() - mark)
    }

    fn drop_since_mark(&mut self) -> Result<(), PthProblem> {
        let count = self.since_mark()?;
        self.stack.truncate(self.stack.len() - count);
        Ok(())
    }

    // ---- values ----

    fn integer(&mut self, opcode: u8) -> Result<(), PthProblem> {
        let value = match opcode {
            b'J' => i64::from(self.number::<4>()? as u32 as i32), // BININT
            b'K' => self.number::<1>()? as i64,                   // BININT1
            b'M' => self.number::<2>()? as i64,                   // BININT2
            _ => {
                let bytes = self.number::<1>().and_then(|len| self.take(len))?; // LONG1
                if bytes.len() > 8 {
                    return Err(self.damaged("a number of more than 64 bits"));
                }
                // Two's complement: the highest bit is the sign.
                let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
                let mut all = [fill; 8];
                all[..bytes.len()].copy_from_slice(bytes);
                i64::from_le_bytes(all)
            }
        };
        self.push(Value::Int(value))
    }

    /// A text behind its length of `N` bytes.
    fn text_of<const N: usize>(&mut self) -> Result<(), PthProblem> {
        let len = self.number::<N>()?;
        let text = self.take(len)?;
        if len > MAX_TEXT {
            return self.push(Value::Other);
        }
        if std::str::from_utf8(text).is_err() {
            return Err(self.damaged("a text that is not UTF-8"));
        }
        self.push(Value::Text(Slice((self.at - len) as u32, self.at as u32)))
    }

    fn text(&self, value: Value) -> Option<&'a str> {
        match value {
            Value::Text(slice) => std::str::from_utf8(&self.pickle[slice.range()]).ok(),
            _ => None,
        }
    }

    fn new_dictionary(&mut self) -> Result<(), PthProblem> {
        if self.dictionaries.len() == MAX_DICTIONARIES {
            return Err(PthProblem::TooMany { what: "dictionaries", max: MAX_DICTIONARIES });
        }
        self.dictionaries.push(vec![]);
        self.push(Value::Dictionary(self.dictionaries.len() as u32 - 1))
    }

    /// Adds keys and values in turn to the dictionary on top of the stack.
    fn set_items(&mut self, entries: &[Value]) -> Result<(), PthProblem> {
        let Some(Value::Dictionary(index)) = self.stack.last() else {
            return Err(self.damaged("an entry of no dictionary"));
        };
        let (pairs, rest) = entries.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.damaged("a key without a value"));
        }
        self.dictionaries[*index as usize].extend(pairs.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    /// The topmost `count` values as a tuple.
    fn tuple(&mut self, count: usize) -> Result<(), PthProblem> {
        let start = self.items.len();
        for _ in 0..count {
            let value = self.pop()?;
            self.items.push(value);
        }
        self.items[start..].reverse();
        self.push(Value::Tuple(Slice(start as u32, self.items.len() as u32)))
    }

    /// The values of a tuple.
    fn of_tuple(&self, value: Value) -> &[Value] {
        match value {
            Value::Tuple(slice) => &self.items[slice.range()],
            _ => &[],
        }
    }

    /// Remembers the value on top, or pushes one that is remembered.
    fn memory(&mut self, opcode: u8) -> Result<(), PthProblem> {
        let index = match opcode {
            b'q' | b'h' => self.number::<1>()?, // BINPUT, BINGET
            b'r' | b'j' => self.number::<4>()?, // LONG_BINPUT, LONG_BINGET
            _ => self.memo.len(),               // MEMOIZE
        };
        if matches!(opcode, b'h' | b'j') {
            let value = self.memo.get(index).copied().ok_or(self.damaged("a value that was never stored"))?;
            return self.push(value);
        }
        if index >= MAX_VALUES {
            return Err(PthProblem::TooMany { what: "values in its memory", max: MAX_VALUES });
        }
        let value = self.stack.last().copied().ok_or(self.damaged("a value is missing"))?;
        if index >= self.memo.len() {
            self.memo.resize(index + 1, Value::Other);
        }
        self.memo[index] = value;
        Ok(())
    }

    // ---- Python objects ----

    fn global(&mut self) -> Result<(), PthProblem> {
        let (module, name) = (self.line()?, self.line()?);
        self.push(Value::Symbol(symbol(module, name)?))
    }

    /// What would be a call: a dictionary or a tensor.
    fn reduce(&mut self) -> Result<(), PthProblem> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        match function {
            Value::Symbol(Symbol::OrderedDict) => self.new_dictionary(),
            Value::Symbol(Symbol::RebuildTensor) => self.tensor(arguments),
            Value::Symbol(Symbol::RebuildParameter) => match self.of_tuple(arguments).first() {
                Some(Value::Tensor(index)) => self.push(Value::Tensor(*index)),
                _ => Err(self.damaged("a parameter without a tensor")),
            },
            _ => Err(PthProblem::Forbidden { name: "a call".into() }),
        }
    }

    /// Arguments are storage, first element, shape, strides, and what computing gradients needs.
    fn tensor(&mut self, arguments: Value) -> Result<(), PthProblem> {
        let [Value::Storage(storage), Value::Int(offset), shape, strides, ..] = *self.of_tuple(arguments) else {
            return Err(self.damaged("a tensor without storage, shape or strides"));
        };
        let axes = |value: Value| -> Option<Vec<usize>> {
            let axes = self.of_tuple(value);
            let sizes = axes.iter().map(|axis| if let Value::Int(n) = axis { usize::try_from(*n).ok() } else { None });
            sizes.collect::<Option<Vec<_>>>().filter(|axes| axes.len() <= MAX_AXES)
        };
        let Storage { dtype, key, elements } = self.storages[storage as usize];
        let (shape, strides) = (axes(shape), axes(strides));
        let (Some(shape), Some(strides), Ok(offset)) = (shape, strides, usize::try_from(offset)) else {
            return Err(self.damaged("a shape, strides or a first element that cannot be"));
        };
        if shape.len() != strides.len() {
            return Err(self.damaged("a shape and strides of other lengths"));
        }
        if self.tensors.len() == MAX_TENSORS {
            return Err(PthProblem::TooMany { what: "tensors", max: MAX_TENSORS });
        }
        let key = self.text(Value::Text(key)).unwrap_or_default().to_owned();
        self.tensors.push(Tensor { dtype, key, elements, offset, shape, strides });
        self.push(Value::Tensor(self.tensors.len() as u32 - 1))
    }

    /// A storage: `("storage", type, name, device, number of elements)`.
    fn persistent(&mut self) -> Result<(), PthProblem> {
        let id = self.pop()?;
        let &[kind, Value::Symbol(Symbol::Storage(dtype)), Value::Text(key), _, Value::Int(elements)] =
            self.of_tuple(id)
        else {
            return Err(self.damaged("a storage without type, name or length"));
        };
        let elements = usize::try_from(elements).ok().filter(|_| self.text(kind) == Some("storage"));
        let elements = elements.ok_or(self.damaged("a storage of no length"))?;
        // Names are numbers.
        if key.range().len() > 64 {
            return Err(self.damaged("the name of a storage is longer than 64 bytes"));
        }
        self.storages.push(Storage { dtype, key, elements });
        self.push(Value::Storage(self.storages.len() as u32 - 1))
    }
}

/// The object `name` of a Python module.
fn symbol(module: &str, name: &str) -> Result<Symbol, PthProblem> {
    let known = |dtype| Ok(Symbol::Storage(StoredDType::Known(dtype)));
    let other = |name, bytes| Ok(Symbol::Storage(StoredDType::Other(name, [1, bytes])));
    match (module, name) {
        ("collections", "OrderedDict") => Ok(Symbol::OrderedDict),
        ("torch._utils", "_rebuild_tensor_v2") => Ok(Symbol::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => Ok(Symbol::RebuildParameter),
        ("torch", "FloatStorage") => known(DType::F32),
        ("torch", "HalfStorage") => known(DType::F16),
        ("torch", "BFloat16Storage") => known(DType::Bf16),
        ("torch", "CharStorage") => known(DType::I8),
        ("torch", "DoubleStorage") => other("F64", 8),
        ("torch", "LongStorage") => other("I64", 8),
        ("torch", "IntStorage") => other("I32", 4),
        ("torch", "ShortStorage") => other("I16", 2),
        ("torch", "ByteStorage") => other("U8", 1),
        ("torch", "BoolStorage") => other("BOOL", 1),
        _ => Err(PthProblem::Forbidden { name: format!("{module} {name}") }),
    }
}
