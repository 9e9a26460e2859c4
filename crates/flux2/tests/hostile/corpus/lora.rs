//! Hostile LoRAs and the configuration beside them.

use super::*;

pub(super) fn lora(files: &mut Files, rng: &mut Rng, whole: &Tensors) {
    tensors(files, rng, whole);
    let long = format!("{{\"x\": [{}0]}}", "0,".repeat(2_000_000));
    let file = whole.changed(|header| {
        header.insert("__metadata__".into(), json!({"lora_adapter_metadata": long}));
    });
    files.add("a list of 2 million numbers in its configuration", file);
    let text = whole.text();
    bytes(files, rng, &whole.with(&text), text.len() + 8, 20);
    let said = whole.header["__metadata__"]["lora_adapter_metadata"].as_str().expect("the fixture has some");
    let configuration = parse(said.as_bytes());
    for _ in 0..25 {
        let (what, said) = mutant(rng, &configuration);
        let said = String::from_utf8_lossy(&said).into_owned();
        files.add(
            format!("metadata{what}"),
            whole.changed(|h| h["__metadata__"]["lora_adapter_metadata"] = said.into()),
        );
    }
    for (from, to) in [
        ("lora_A", "lora_B"),
        ("lora_A.weight", "lora_A"),
        ("lora_A", "lora_A.a.b"),
        ("lora_A", "lora_mid"),
        ("lora_A.weight", "lokr_w1"),
        ("lora_A.weight", "hada_w1_a"),
        ("lora_B.weight", "lora_magnitude_vector"),
        ("lora_B.weight", "diff_b"),
        ("lora_A.weight", "alpha"),
        (".weight", ".weight.weight"),
        ("transformer.", ""),
        ("transformer.", "transformer.transformer.transformer."),
        ("transformer.", "lora_unet_"),
        ("transformer.", "text_encoder."),
        ("transformer.transformer_blocks.0", "transformer.transformer_blocks.00"),
        ("transformer_blocks.0", "transformer_blocks.18446744073709551616"),
        ("transformer_blocks.1", "transformer_blocks.-1"),
        ("attn.to_q", "norm1.linear"),
        ("attn.", ""),
    ] {
        let renamed = text.replace(from, to);
        files.add(format!("{from} is {to}"), whole.with(renamed));
    }
    files.add("every name twice, with another prefix", {
        let mut header = whole.header.clone();
        for name in whole.names() {
            let mut entry = header[&name].clone();
            entry["shape"] = json!([0]);
            entry["data_offsets"] = json!([whole.data.len(), whole.data.len()]);
            header.insert(name.replace("transformer.", "diffusion_model."), entry);
        }
        whole.with(Value::Object(header).to_string())
    });
    files.add("no tensors", Tensors { header: Map::new(), data: vec![] }.with("{}"));
    for (what, alpha) in
        [("no number", f32::NAN), ("infinite", f32::INFINITY), ("enormous", f32::MAX), ("nothing", 0.0)]
    {
        let end = whole.data.len();
        let mut data = whole.data.clone();
        data.extend(alpha.to_le_bytes());
        let with_alpha = Tensors { header: whole.header.clone(), data };
        files.add(
            format!("alpha is {what}"),
            with_alpha.changed(|header| {
                let entry = json!({"dtype": "F32", "shape": [], "data_offsets": [end, end + 4]});
                header.insert("transformer.x_embedder.alpha".into(), entry);
            }),
        );
    }
    let nearly: Map<String, Value> = (0..3000)
        .map(|i| {
            (
                format!("transformer.transformer_blocks.{i}.attn.to_qq.lora_A.weight"),
                json!({"dtype": "F32", "shape": [0, 64], "data_offsets": [0, 0]}),
            )
        })
        .collect();
    let nearly = Tensors { header: nearly, data: vec![] };
    files.add("3000 names that are nearly right", nearly.with(nearly.text()));
}

// ---- tokenizer and index ----

/// Changes of an adapter of one kind, whose tensors are called alike.
pub(super) fn adapter(files: &mut Files, rng: &mut Rng, whole: &Tensors) {
    tensors(files, rng, whole);
    let text = whole.text();
    bytes(files, rng, &whole.with(&text), text.len() + 8, 10);
    const ENDS: [&str; 10] = [
        "lokr_w1",
        "lokr_w2_a",
        "lokr_t2",
        "hada_w1_a",
        "hada_t1",
        "diff",
        "alpha",
        "lora_mid.weight",
        "dora_scale",
        "",
    ];
    for name in whole.names() {
        let end = *rng.pick(&ENDS);
        let to = format!("{}.{end}", name.split('.').next().unwrap_or_default());
        files.add(format!("{name} is {to}"), whole.with(text.replace(&format!("{name}\""), &format!("{to}\""))));
        let without = whole.changed(|header| _ = header.remove(&name));
        files.add(format!("without {name}"), without);
        // A matrix of no rows or no columns, and one with axes of length 1 behind it.
        for shape in [json!([0, 64]), json!([64, 0]), json!([]), json!([1, 1, 1, 1, 1, 1, 1, 1, 1])] {
            let file = whole.changed(|header| {
                let from = header[&name]["data_offsets"][0].clone();
                header[&name]["data_offsets"] = json!([from, from]);
                header[&name]["shape"] = shape.clone();
            });
            files.add(format!("{name} is {shape}"), file);
        }
    }
}
