//! Hostile PyTorch files: archives that lie, pickles that want to run code, tensors beyond their storages.

use super::{Files, Rng, bytes};

/// Adds all of them to `files`; `whole` is an upscaler as torch saved it, `legacy` a file in the format before.
pub(super) fn pth(files: &mut Files, rng: &mut Rng, whole: &[u8], legacy: &[u8]) {
    let archive = Archive::parse(whole);
    files.add("as it is, written anew", archive.bytes());
    files.add("in the old format", legacy);
    let mut tar = vec![0; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    files.add("a TAR archive", tar);
    files.add("nothing", b"");
    files.add("only a magic", b"PK\x03\x04");
    let end = whole.len() - 22;
    for cut in [1, 21, 22, 42, 98, 200, end / 2, end - 1, whole.len() - 64] {
        files.add(format!("without its last {cut} bytes"), &whole[..whole.len() - cut]);
    }
    bytes(files, rng, whole, whole.len(), 60);
    directory(files, &archive);
    let pickle = archive.members[0].1.clone();
    for i in 0..40 {
        let mut changed = pickle.clone();
        let at = rng.below(changed.len());
        changed[at] = rng.next() as u8;
        files.add(format!("{i}: byte {at} of the pickle is {}", changed[at]), archive.with_pickle(changed));
    }
    for cut in [0, 1, 2, 100, pickle.len() - 1] {
        files.add(format!("{cut} bytes of the pickle"), archive.with_pickle(pickle[..cut].to_vec()));
    }
    code(files, &archive);
    floods(files, &archive);
    tensors(files, &archive);
}

// ---- the archive ----

fn directory(files: &mut Files, archive: &Archive) {
    let mut add = |what: &str, change: &dyn Fn(&mut Archive)| {
        let mut archive = archive.clone();
        change(&mut archive);
        files.add(what, archive.bytes());
    };
    add("compressed", &|a| a.method = 8);
    add("of an unknown method", &|a| a.method = 99);
    add("encrypted", &|a| a.flags = 1);
    add("stored in fewer bytes", &|a| a.stored_less = 1);
    add("members at one place", &|a| a.shift = u32::MAX);
    add("members one byte later", &|a| a.shift = 1);
    for count in [0, 1, 1000, 0xffff] {
        add(&format!("{count} members said"), &|a| a.count = Some(count));
    }
    for place in [0, 3, 0x7fff_ffff, u32::MAX] {
        add(&format!("a directory at {place}"), &|a| a.directory = Some(place));
    }
    add("big-endian", &|a| a.set("byteorder", b"big"));
    add("an odd order of bytes", &|a| a.set("byteorder", b""));
    add("no pickle", &|a| a.members.retain(|(name, _)| !name.ends_with("data.pkl")));
    add("no storages", &|a| a.members.retain(|(name, _)| !name.contains("/data/")));
    add("one name twice", &|a| a.members.push(a.members[0].clone()));
    add("names without a folder", &|a| {
        a.members.iter_mut().for_each(|(name, _)| *name = name.replace("srvgg_x4/", ""));
    });
    add("names that lead out", &|a| a.members.iter_mut().for_each(|(name, _)| *name = format!("../../{name}")));
    add("a name of 60000 bytes", &|a| a.members[1].0 = format!("x/{}", "y".repeat(60_000)));
    add("20000 members", &|a| a.members.extend((0..20_000).map(|i| (format!("x/{i}"), vec![]))));
    add("shorter storages", &|a| {
        a.members.iter_mut().filter(|(name, _)| name.contains("/data/")).for_each(|(_, bytes)| bytes.truncate(1));
    });
}

/// A ZIP archive of stored members, and what it says wrongly.
#[derive(Clone)]
struct Archive {
    members: Vec<(String, Vec<u8>)>,
    method: u16,
    flags: u16,
    stored_less: u32,
    shift: u32,
    count: Option<u16>,
    directory: Option<u32>,
}

impl Archive {
    /// The members of an archive without faults, the pickle first.
    fn parse(file: &[u8]) -> Self {
        let number =
            |at: usize, len: usize| file[at..at + len].iter().rev().fold(0usize, |n, b| n << 8 | usize::from(*b));
        let end = file.len() - 22;
        let (count, mut at) = (number(end + 10, 2), number(end + 16, 4));
        let mut members = vec![];
        for _ in 0..count {
            let (size, name, extra, comment) =
                (number(at + 24, 4), number(at + 28, 2), number(at + 30, 2), number(at + 32, 2));
            let header = number(at + 42, 4);
            let data = header + 30 + number(header + 26, 2) + number(header + 28, 2);
            let text = String::from_utf8(file[at + 46..at + 46 + name].to_vec()).expect("a name");
            members.push((text, file[data..data + size].to_vec()));
            at += 46 + name + extra + comment;
        }
        members.sort_by_key(|(name, _)| !name.ends_with("data.pkl"));
        Archive { members, method: 0, flags: 0, stored_less: 0, shift: 0, count: None, directory: None }
    }

    fn set(&mut self, name: &str, bytes: &[u8]) {
        let member = self.members.iter_mut().find(|(known, _)| known.ends_with(name)).expect("a member of this name");
        member.1 = bytes.to_vec();
    }

    fn with_pickle(&self, pickle: Vec<u8>) -> Vec<u8> {
        let mut archive = self.clone();
        archive.members[0].1 = pickle;
        archive.bytes()
    }

    fn bytes(&self) -> Vec<u8> {
        let (mut file, mut directory) = (vec![], vec![]);
        for (name, bytes) in &self.members {
            let (at, size) = (file.len() as u32, bytes.len() as u32);
            let at = if self.shift == u32::MAX { 0 } else { at + self.shift };
            let stored = size.saturating_sub(self.stored_less);
            let fields = |out: &mut Vec<u8>, version: u16| {
                [version, self.flags, self.method, 0, 0].iter().for_each(|n| out.extend(n.to_le_bytes()));
                [0, stored, size].iter().for_each(|n: &u32| out.extend(n.to_le_bytes()));
                [name.len() as u16, 0].iter().for_each(|n| out.extend(n.to_le_bytes()));
            };
            file.extend(b"PK\x03\x04");
            fields(&mut file, 20);
            file.extend(name.as_bytes());
            file.extend(bytes);
            directory.extend(b"PK\x01\x02\x14\x00");
            fields(&mut directory, 20);
            directory.extend([0; 10]);
            directory.extend(at.to_le_bytes());
            directory.extend(name.as_bytes());
        }
        let (start, count) = (file.len() as u32, self.members.len() as u16);
        let count = self.count.unwrap_or(count);
        file.extend(&directory);
        file.extend(b"PK\x05\x06\0\0\0\0");
        [count, count].iter().for_each(|n| file.extend(n.to_le_bytes()));
        [directory.len() as u32, self.directory.unwrap_or(start)].iter().for_each(|n| file.extend(n.to_le_bytes()));
        file.extend([0, 0]);
        file
    }
}

// ---- the pickle ----

/// Pickles that would run code if they were loaded by Python, and instructions that no tensor needs.
fn code(files: &mut Files, archive: &Archive) {
    for (what, pickle) in [
        ("os.system", &b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R."[..]),
        ("eval", b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R."),
        ("by text", b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R."),
        ("an attribute of an attribute", b"\x80\x04\x8c\x0ccollections.x\x8c\x0bOrderedDict\x93."),
        ("a class", b"\x80\x02ccollections\nOrderedDict\n)\x81."),
        ("a class with names", b"\x80\x04\x8c\x0bcollections\x8c\x0bOrderedDict\x93)}\x92."),
        ("INST", b"(ios\nsystem\n."),
        ("OBJ", b"(cos\nsystem\no."),
        ("BUILD of a storage", b"\x80\x02ctorch\nFloatStorage\n}b."),
        ("a persistent name", b"Pdata\n."),
        ("a persistent list", b"\x80\x02]Q."),
        ("text of Python 2", b"S'ls'\n."),
        ("bytes", b"\x80\x04C\x02ab."),
        ("an extension", b"\x80\x02\x82\x01."),
        ("a long of 9 bytes", b"\x80\x02\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\xff."),
        ("a length beyond the end", b"\x80\x02X\xff\xff\xff\xffa."),
        ("a name without an end", b"\x80\x02ctorch"),
        ("a name that is no text", b"\x80\x02c\xff\n\xff\n."),
        ("nothing on the stack", b"\x80\x02."),
        ("a mark too many", b"\x80\x02((."),
        ("no mark", b"\x80\x02}u."),
        ("a key alone", b"\x80\x02}(K\x01u."),
        ("a value below a mark", b"\x80\x02}(0."),
        ("memory that was never written", b"\x80\x02h\x07."),
        ("a frame without an end", b"\x80\x04\x95\x01"),
        ("a dictionary in itself", b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s."),
        ("a list", b"\x80\x02]."),
    ] {
        files.add(what, archive.with_pickle(pickle.to_vec()));
    }
}

/// Pickles that grow: nesting, memory, counts.
fn floods(files: &mut Files, archive: &Archive) {
    let wrap = |body: Vec<u8>| [b"\x80\x02".to_vec(), body, b".".to_vec()].concat();
    for (what, body) in [
        ("500000 dictionaries", b"}".repeat(500_000)),
        ("500000 tuples in each other", [b")".to_vec(), b"\x85".repeat(500_000)].concat()),
        ("500000 marks", b"(".repeat(500_000)),
        ("500000 values remembered", [b"N".to_vec(), b"\x94".repeat(500_000)].concat()),
        ("memory at the last place", b"Nr\xff\xff\xff\xff".to_vec()),
        ("500000 nothings", b"N0".repeat(250_000)),
        ("one value 100000 times in a tuple", [b"N\x94(".to_vec(), b"h\x00".repeat(100_000), b"t".to_vec()].concat()),
        ("tuples of tuples", [b")\x94".to_vec(), b"(h\x00h\x00h\x00t\x94".repeat(30_000)].concat()),
        ("a dictionary of 60000 entries", [b"}(".to_vec(), b"K\x01K\x02".repeat(30_000), b"u".to_vec()].concat()),
        ("names of 1000 bytes, again and again", {
            let name = [b"X\xe8\x03\x00\x00".to_vec(), vec![b'x'; 1000], b"\x94".to_vec()].concat();
            [b"}(".to_vec(), name, b"h\x00".repeat(59_999), b"u".to_vec()].concat()
        }),
    ] {
        files.add(what, archive.with_pickle(wrap(body)));
    }
}

/// A tensor of the first storage, with these numbers.
fn tensors(files: &mut Files, archive: &Archive) {
    let storage = archive.members.iter().find(|(name, _)| name.ends_with("/data/0")).expect("the first storage");
    let elements = storage.1.len() as i64 / 4;
    let number = |n: i64| [b"\x8a\x08".to_vec(), n.to_le_bytes().to_vec()].concat();
    let tuple =
        |numbers: &[i64]| [b"(".to_vec(), numbers.iter().flat_map(|n| number(*n)).collect(), b"t".to_vec()].concat();
    let tensor = |kind: &str, key: &str, elements: i64, offset: i64, shape: &[i64], strides: &[i64]| {
        let text = |text: &str| [b"X".to_vec(), (text.len() as u32).to_le_bytes().to_vec(), text.into()].concat();
        [
            b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
            text("storage"),
            format!("ctorch\n{kind}\n").into_bytes(),
            text(key),
            text("cpu"),
            number(elements),
            b"tQ".to_vec(),
            number(offset),
            tuple(shape),
            tuple(strides),
            b"\x89)tR".to_vec(),
        ]
        .concat()
    };
    let file = |tensor: &[u8]| {
        let pickle = [b"\x80\x02}X\x0d\x00\x00\x00body.0.weight".to_vec(), tensor.to_vec(), b"s.".to_vec()].concat();
        archive.with_pickle(pickle)
    };
    let far = i64::MAX;
    for (what, tensor) in [
        ("another type", tensor("DoubleStorage", "0", elements, 0, &[1], &[1])),
        ("an unknown type", tensor("QInt8Storage", "0", elements, 0, &[1], &[1])),
        ("more elements", tensor("FloatStorage", "0", elements + 1, 0, &[1], &[1])),
        ("negative elements", tensor("FloatStorage", "0", -1, 0, &[1], &[1])),
        ("all elements there are", tensor("FloatStorage", "0", far, 0, &[1], &[1])),
        ("another storage", tensor("FloatStorage", "../0", elements, 0, &[1], &[1])),
        ("a storage that is not there", tensor("FloatStorage", "99999", elements, 0, &[1], &[1])),
        ("a start behind the end", tensor("FloatStorage", "0", elements, elements, &[1], &[1])),
        ("a negative start", tensor("FloatStorage", "0", elements, -1, &[1], &[1])),
        ("a start far away", tensor("FloatStorage", "0", elements, far, &[1], &[1])),
        ("a shape beyond the end", tensor("FloatStorage", "0", elements, 0, &[elements + 1], &[1])),
        ("a shape that overflows", tensor("FloatStorage", "0", elements, 0, &[far, far, far], &[1, 1, 1])),
        ("strides beyond the end", tensor("FloatStorage", "0", elements, 0, &[2], &[elements])),
        ("strides that overflow", tensor("FloatStorage", "0", elements, 0, &[3, 3], &[far, far])),
        ("negative strides", tensor("FloatStorage", "0", elements, 0, &[2], &[-1])),
        ("one element many times", tensor("FloatStorage", "0", elements, 0, &[1 << 40], &[0])),
        ("a negative shape", tensor("FloatStorage", "0", elements, 0, &[-2], &[1])),
        ("nine axes", tensor("FloatStorage", "0", elements, 0, &[1; 9], &[1; 9])),
        ("fewer strides than axes", tensor("FloatStorage", "0", elements, 0, &[1, 1], &[1])),
        ("no elements, a start far away", tensor("FloatStorage", "0", elements, far, &[0], &[1])),
    ] {
        files.add(what, file(&tensor));
    }
    // One storage many times: more memory than the file has.
    let one = tensor("FloatStorage", "0", elements, 0, &[elements], &[1]);
    let names = (0..2000).flat_map(|i| {
        let name = format!("{i:05}");
        [b"X\x05\x00\x00\x00".to_vec(), name.into_bytes(), one.clone()].concat()
    });
    let pickle = [b"\x80\x02}(".to_vec(), names.collect(), b"u.".to_vec()].concat();
    files.add("one storage in 2000 tensors", archive.with_pickle(pickle));
}
