//! Help, and every way to hold it wrong: found before a model is looked for.

use crate::cli::{Cli, QUICK};
use crate::snapshot;

/// What is said about a command line with the tiny model at hand; nothing may be made.
fn refused(args: &[&str]) -> String {
    let cli = Cli::with_tiny_model();
    let shown = cli.run(args);
    assert_eq!(cli.files(), [""; 0], "{shown}");
    shown
}

/// As [`refused`], for flags behind a prompt.
fn fox_refused(args: &[&str]) -> String {
    refused(&[&["a red fox"], args].concat())
}

#[cfg(feature = "hub")]
#[test]
fn no_arguments() {
    snapshot!(refused(&[]), @r#"
    exit code: 2
    ----- stderr -----
    Text-to-image and image editing with FLUX.2 [klein]

    Usage: dj-flux2 <COMMAND>

    Commands:
      generate  Make pictures from a prompt, and from reference images
      info      Print what made a picture
      inspect   Say what a file or folder of weights is, without loading it
      plan      Say how much memory a picture would take, without making it
      bench     Time the ops, or whole pictures, on this machine
      convert   Write a model in another number format, or go on where that stopped
      doctor    Say what this machine computes with, and what is missing for its GPU
      download  Bring a model here, or go on where that stopped
      models    List the models that are known, and those that are on this disk
      verify    Compare the files of models with their hashes
      remove    Remove a model from this disk
      help      Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help
      -V, --version  Print version

    `dj-flux2 "a red fox"` is short for `dj-flux2 generate "a red fox"`; flags may stand before the
    prompt.
    `dj-flux2 generate --help` lists them.
    "#);
}

#[cfg(feature = "hub")]
#[test]
fn help() {
    snapshot!(refused(&["--help"]), @r#"
    exit code: 0
    ----- stdout -----
    Text-to-image and image editing with FLUX.2 [klein]

    Usage: dj-flux2 <COMMAND>

    Commands:
      generate  Make pictures from a prompt, and from reference images
      info      Print what made a picture
      inspect   Say what a file or folder of weights is, without loading it
      plan      Say how much memory a picture would take, without making it
      bench     Time the ops, or whole pictures, on this machine
      convert   Write a model in another number format, or go on where that stopped
      doctor    Say what this machine computes with, and what is missing for its GPU
      download  Bring a model here, or go on where that stopped
      models    List the models that are known, and those that are on this disk
      verify    Compare the files of models with their hashes
      remove    Remove a model from this disk
      help      Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help
      -V, --version  Print version

    `dj-flux2 "a red fox"` is short for `dj-flux2 generate "a red fox"`; flags may stand before the
    prompt.
    `dj-flux2 generate --help` lists them.
    "#);
    assert_eq!(refused(&["help"]), refused(&["--help"]));
}

#[cfg(all(feature = "hub", feature = "mini"))]
#[test]
fn help_for_generate() {
    snapshot!(refused(&["generate", "--help"]), @r"
    exit code: 0
    ----- stdout -----
    Make pictures from a prompt, and from reference images

    Usage: dj-flux2 generate [OPTIONS] [PROMPT]...

    Arguments:
      [PROMPT]...  What the picture shows, in quotes; `-` reads it from standard input

    Options:
          --prompt-file <FILE>  Read prompts from a file, one a line; `-` is standard input
          --from <FILE>         Start from the parameters stored in a picture; other flags override them
      -h, --help                Print help

    Model:
      -m, --model <PATH>         Folder of the model, its transformer as a file, or a name, as in
                                 klein-4b; klein-mini is built in [default: $DJ_FLUX2_MODEL, or
                                 klein-mini]
          --transformer <PATH>   Transformer, file or folder, instead of the one in the folder of
                                 --model
          --text-encoder <PATH>  Text encoder, file or folder; needed if --model is a file
          --vae <PATH>           Autoencoder, file or folder; needed if --model is a file
          --lora <FILE[:SCALE]>  LoRA to add to the transformer, a .safetensors file, with :SCALE for
                                 another scale than 1; repeat it for several
          --variant <NAME>       Member of the family, where the files do not say: klein-4b,
                                 klein-base-4b, klein-9b, klein-base-9b, klein-9b-kv, klein-mini

    Picture:
      -i, --input <FILE>      Reference image to edit or combine; repeat it for several [aliases:
                              --image, --ref-image]
      -W, --width <PX>        Width in pixels, a multiple of 16 from 64 to 4096 [default: the first
                              reference's, or 512; 128 with klein-mini]
      -H, --height <PX>       Height in pixels; likewise
          --size <WxH>        Width and height at once, as in 1024x768
      -s, --steps <N>         Denoising steps [default: what the model was made for]
      -g, --guidance <SCALE>  Guidance scale, for base models [default: what the model was made for]
      -S, --seed <N>          Seed, 64 bits [default: random, and printed]
          --noise <KIND>      How the seed becomes noise: philox, torch-cpu, torch-cuda or
                              torch-cuda:SMSxTHREADS [default: philox]
      -n, --count <N>         Pictures for each prompt; every further picture has the next seed
                              [default: 1]

    Output:
      -o, --output <FILE>  Where to write: .png, .jpg or .webp; `-` is standard output; {seed} and
                           {index} are filled in [default: output.png]
          --no-clobber     Fail instead of replacing a file
          --no-metadata    Write nothing but pixels: no prompt, no seed
          --json           Print one JSON object a picture on standard output
      -q, --quiet          Print errors and random seeds only
      -v, --verbose        Print model, device and the time of every stage

    Running:
          --dtype <DTYPE>      Number format to compute in [default: bf16] [possible values: f32, bf16,
                               int8, fp8]
          --quantize <FORMAT>  Round the weights of layers when they are loaded; int8 is --dtype int8
                               [default: they stay as stored] [possible values: bf16, int8, q8_0, q4_k]
          --device <DEVICE>    Where to run: auto, cpu, cuda, or one GPU as in cuda:1; several pictures
                               are made on all GPUs, unless one is named [default: auto]
          --threads <N>        CPU threads [default: as many as this process may use]
          --max-memory <SIZE>  Memory the run may take, a GPU's or else the processor's, as in 6GiB:
                               keeps fewer weights in it, or refuses before any work [default: no limit]
          --allow-quantize     Round weights, to q8_0 or q4_k, on a GPU to fp8 or int8, where nothing
                               else keeps within --max-memory; it is said if it happens
          --no-text-cache      Keep no text embeddings on disk from run to run, and use none
    ");
    assert_eq!(refused(&["help", "generate"]), refused(&["generate", "--help"]));
}

#[test]
fn help_for_info() {
    snapshot!(refused(&["info", "-h"]), @"
    exit code: 0
    ----- stdout -----
    Print what made a picture

    Usage: dj-flux2 info [OPTIONS] <FILE>

    Arguments:
      <FILE>  A PNG, JPEG or WebP picture that dj-flux2 made

    Options:
          --json  Print the parameters as one JSON object
      -h, --help  Print help
    ");
}

#[test]
fn help_for_bench() {
    snapshot!(refused(&["bench", "-h"]), @"
    exit code: 0
    ----- stdout -----
    Time the ops, or whole pictures, on this machine

    Usage: dj-flux2 bench <COMMAND>

    Commands:
      ops       Time each op at the shapes of klein-4b, beside the peak measured in the same run
      generate  Time a picture by stages, beside what the arithmetic allows
      help      Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help
    ");
    snapshot!(refused(&["bench", "ops", "-h"]), @"
    exit code: 0
    ----- stdout -----
    Time each op at the shapes of klein-4b, beside the peak measured in the same run

    Usage: dj-flux2 bench ops [OPTIONS]

    Options:
          --filter <TEXT>  Time only the ops whose name and shape hold this, as in `attention` or
                           `linear 1536x`
      -h, --help           Print help

    Running:
          --dtype <DTYPE>    Number format to compute in [default: bf16] [possible values: f32, bf16,
                             int8, fp8]
          --device <DEVICE>  Where to run: auto, cpu, cuda, or one GPU as in cuda:1 [default: auto]
          --threads <N>      CPU threads [default: as many as this process may use]

    Output:
          --json            Print one JSON object a result on standard output
          --compare <FILE>  Show the results beside those of an earlier run, a file of what --json
                            printed
      -q, --quiet           Print errors and results only
    ");
    snapshot!(refused(&["bench", "generate", "-h"]), @"
    exit code: 0
    ----- stdout -----
    Time a picture by stages, beside what the arithmetic allows

    Usage: dj-flux2 bench generate [OPTIONS]

    Options:
      -h, --help  Print help

    Model:
      -m, --model <PATH>         Folder of the model, its transformer as a file, or klein-mini [default:
                                 $DJ_FLUX2_MODEL]
          --text-encoder <PATH>  Text encoder, file or folder; needed if --model is a file
          --vae <PATH>           Autoencoder, file or folder; needed if --model is a file
          --synthetic <NAME>     Random weights, made in memory, of the size of klein-4b, klein-base-4b,
                                 klein-9b, klein-base-9b, klein-9b-kv or klein-mini
          --lora <FILE[:SCALE]>  LoRA to add to the transformer, as for generate; repeat it for several

    Picture:
      -i, --input <FILE>  Reference image; repeat it for several
      -W, --width <PX>    Width in pixels, a multiple of 16 from 64 to 4096 [default: as generate]
      -H, --height <PX>   Height in pixels; likewise
      -s, --steps <N>     Denoising steps [default: what the model was made for]

    Running:
          --warmup <N>         Pictures made before, whose times do not count [default: 0]
          --runs <N>           Pictures whose times count; the one with the median time is shown
                               [default: 1]
          --quantize <FORMAT>  Round the weights of layers when they are loaded; int8 is --dtype int8
                               [default: they stay as stored] [possible values: bf16, int8, q8_0, q4_k]
          --resident           Keep everything loaded from one picture to the next, as a server does;
                               each still has a prompt of its own
          --max-memory <SIZE>  Memory the run may take, as for generate
          --dtype <DTYPE>      Number format to compute in [default: bf16] [possible values: f32, bf16,
                               int8, fp8]
          --device <DEVICE>    Where to run: auto, cpu, cuda, or one GPU as in cuda:1 [default: auto]
          --threads <N>        CPU threads [default: as many as this process may use]

    Output:
          --json            Print one JSON object a result on standard output
          --compare <FILE>  Show the results beside those of an earlier run, a file of what --json
                            printed
      -q, --quiet           Print errors and results only
    ");
}

#[test]
fn help_for_convert() {
    snapshot!(refused(&["convert", "-h"]), @"
    exit code: 0
    ----- stdout -----
    Write a model in another number format, or go on where that stopped

    Usage: dj-flux2 convert [OPTIONS] --to <FORMAT> <IN> <OUT>

    Arguments:
      <IN>   What to convert: a model as -m takes it, or one of its networks, file or folder
      <OUT>  What to make: a folder of a whole model, a file of one network

    Options:
          --to <FORMAT>          Number format of the weights; bf16 and int8 are written as safetensors,
                                 q8_0 and q4_k as GGUF [possible values: bf16, int8, q8_0, q4_k]
          --component <NETWORK>  Only this network of a model, as one file [possible values:
                                 transformer, text-encoder, vae]
          --force                Replace OUT if it is there
          --threads <N>          CPU threads [default: as many as this process may use]
      -q, --quiet                Print errors and OUT only
      -h, --help                 Print help
    ");
}

#[test]
fn version() {
    snapshot!(refused(&["--version"]), @"
    exit code: 0
    ----- stdout -----
    dj-flux2 [VERSION]
    ");
}

#[test]
fn no_prompt() {
    snapshot!(refused(&["generate"]), @r#"
    exit code: 2
    ----- stderr -----
    error: no prompt
    hint: say what the picture shows, as in `dj-flux2 "a red fox"`
    "#);
    snapshot!(refused(&["-s", "4"]), @r#"
    exit code: 2
    ----- stderr -----
    error: no prompt
    hint: say what the picture shows, as in `dj-flux2 "a red fox"`
    "#);
}

#[test]
fn a_prompt_without_quotes() {
    snapshot!(refused(&["a", "red", "fox", "-s", "4"]), @r#"
    exit code: 2
    ----- stderr -----
    error: the prompt is in 3 pieces
    hint: put it in quotes: "a red fox"
    "#);
}

#[test]
fn a_misspelt_flag() {
    snapshot!(fox_refused(&["--widht", "512"]), @"
    exit code: 2
    ----- stderr -----
    error: unexpected argument '--widht' found
    hint: a similar argument exists: '--width'
    ");
}

#[test]
fn a_flag_without_its_value() {
    snapshot!(fox_refused(&["--steps"]), @"
    exit code: 2
    ----- stderr -----
    error: a value is required for '--steps <N>' but none was supplied
    hint: run it with --help to see what it takes
    ");
}

#[test]
fn a_prompt_and_a_prompt_file() {
    snapshot!(fox_refused(&["--prompt-file", "x.txt"]), @"
    exit code: 2
    ----- stderr -----
    error: the argument '[PROMPT]...' cannot be used with '--prompt-file <FILE>'
    hint: run it with --help to see what it takes
    ");
}

#[test]
fn width_off_the_grid() {
    snapshot!(fox_refused(&["--width", "500"]), @"
    exit code: 2
    ----- stderr -----
    error: width 500 is not a multiple of 16
    hint: use --width 496 or --width 512
    ");
}

#[test]
fn sizes_out_of_range() {
    snapshot!(fox_refused(&["-H", "48"]), @"
    exit code: 2
    ----- stderr -----
    error: height 48 is outside 64 to 4096
    hint: use --height 64
    ");
    snapshot!(fox_refused(&["--size", "8192x512"]), @"
    exit code: 2
    ----- stderr -----
    error: width 8192 is outside 64 to 4096
    hint: use --width 4096
    ");
}

#[test]
fn a_size_that_is_no_size() {
    snapshot!(fox_refused(&["--size", "1024"]), @"
    exit code: 2
    ----- stderr -----
    error: invalid value '1024' for '--size <WxH>': a size is two numbers with an x between them, as in 1024x768
    hint: run it with --help to see what it takes
    ");
    snapshot!(fox_refused(&["--size", "512x512", "-W", "512"]), @"
    exit code: 2
    ----- stderr -----
    error: the argument '--size <WxH>' cannot be used with '--width <PX>'
    hint: run it with --help to see what it takes
    ");
}

#[test]
fn numbers_that_are_none() {
    snapshot!(fox_refused(&["-s", "0"]), @"
    exit code: 2
    ----- stderr -----
    error: 0 steps: the schedule needs 1 to 1000
    hint: leave --steps out for the number the model was made for
    ");
    snapshot!(fox_refused(&["-s", "1001"]), @"
    exit code: 2
    ----- stderr -----
    error: 1001 steps: the schedule needs 1 to 1000
    hint: leave --steps out for the number the model was made for
    ");
    snapshot!(fox_refused(&["-s", "4.5"]), @"
    exit code: 2
    ----- stderr -----
    error: invalid value '4.5' for '--steps <N>': invalid digit found in string
    hint: run it with --help to see what it takes
    ");
    snapshot!(fox_refused(&["-g", "-1"]), @"
    exit code: 2
    ----- stderr -----
    error: guidance -1 is outside 0 to 100
    hint: leave --guidance out for the scale the model was made for
    ");
    snapshot!(fox_refused(&["-g", "nan"]), @"
    exit code: 2
    ----- stderr -----
    error: guidance NaN is outside 0 to 100
    hint: leave --guidance out for the scale the model was made for
    ");
    snapshot!(fox_refused(&["-S", "-1"]), @"
    exit code: 2
    ----- stderr -----
    error: invalid value '-1' for '--seed <N>': invalid digit found in string
    hint: run it with --help to see what it takes
    ");
    snapshot!(fox_refused(&["-S", "18446744073709551616"]), @"
    exit code: 2
    ----- stderr -----
    error: invalid value '18446744073709551616' for '--seed <N>': number too large to fit in target type
    hint: run it with --help to see what it takes
    ");
    snapshot!(fox_refused(&["-n", "0"]), @"
    exit code: 2
    ----- stderr -----
    error: invalid value '0' for '--count <N>': 0 is not in 1..=10000
    hint: run it with --help to see what it takes
    ");
    snapshot!(fox_refused(&["--threads", "0"]), @"
    exit code: 2
    ----- stderr -----
    error: invalid value '0' for '--threads <N>': 0 is not in 1..=1024
    hint: run it with --help to see what it takes
    ");
}

#[test]
fn names_of_nothing() {
    snapshot!(fox_refused(&["--dtype", "f16"]), @"
    exit code: 2
    ----- stderr -----
    error: invalid value 'f16' for '--dtype <DTYPE>' [possible values: f32, bf16, int8, fp8]
    hint: a similar value exists: 'bf16'
    ");
    snapshot!(fox_refused(&["--device", "gpu"]), @"
    exit code: 2
    ----- stderr -----
    error: invalid value 'gpu' for '--device <DEVICE>': a device is auto, cpu, cuda, or one GPU by its number, as in cuda:1
    hint: run it with --help to see what it takes
    ");
    for wrong in ["cuda:x", "cuda:-1", "cuda:"] {
        let shown = fox_refused(&["--device", wrong]);
        assert!(shown.contains(&format!("invalid value '{wrong}' for '--device <DEVICE>'")), "{shown}");
        assert_eq!(shown.lines().next(), Some("exit code: 2"));
        assert_eq!(refused(&["bench", "ops", "--device", wrong]), shown);
    }
    snapshot!(fox_refused(&["--noise", "pink"]), @"
    exit code: 2
    ----- stderr -----
    error: `pink` is not a kind of noise: philox, torch-cpu, torch-cuda, or torch-cuda:SMSxTHREADS as in torch-cuda:46x1536
    hint: leave --noise out for philox
    ");
    snapshot!(fox_refused(&["--variant", "klien-4b"]), @"
    exit code: 2
    ----- stderr -----
    error: unknown variant `klien-4b`
    hint: use klein-4b
    ");
}

#[test]
fn more_seeds_than_there_are() {
    snapshot!(fox_refused(&["-S", "18446744073709551615", "-n", "2"]), @"
    exit code: 2
    ----- stderr -----
    error: seed 18446744073709551615 has no 1 seeds after it
    hint: use -S 18446744073709551614 or less
    ");
}

#[test]
fn too_many_references() {
    snapshot!(fox_refused(&["-i", "x.png"].repeat(17)), @"
    exit code: 2
    ----- stderr -----
    error: 17 reference images, at most 16 are allowed
    hint: pass at most 16 images
    ");
}

#[test]
fn an_output_without_a_format() {
    snapshot!(fox_refused(&["-o", "fox"]), @"
    exit code: 2
    ----- stderr -----
    error: fox: the name has no extension
    hint: end the name in .png, .jpg, .jpeg or .webp
    ");
    snapshot!(fox_refused(&["-o", "fox.gif"]), @"
    exit code: 2
    ----- stderr -----
    error: fox.gif: no picture format is called `gif`
    hint: end the name in .png, .jpg, .jpeg or .webp
    ");
}

#[test]
fn an_output_folder_that_is_not_there() {
    snapshot!(fox_refused(&["-o", "no/such/fox.png"]), @"
    exit code: 2
    ----- stderr -----
    error: no/such/fox.png is to be written and no/such is not a folder
    hint: create it: mkdir -p no/such
    ");
}

#[test]
fn an_output_that_is_a_folder() {
    let cli = Cli::with_tiny_model();
    std::fs::create_dir(cli.path("fox.png")).unwrap();
    snapshot!(cli.run(["a red fox", "-o", "fox.png"]), @"
    exit code: 2
    ----- stderr -----
    error: fox.png is a folder
    hint: choose another name with -o
    ");
}

#[test]
fn a_misspelt_placeholder() {
    snapshot!(fox_refused(&["-o", "{sede}.png"]), @"
    exit code: 2
    ----- stderr -----
    error: unknown placeholder {sede} in the output name {sede}.png
    hint: use {seed} or {index}
    ");
}

#[test]
fn several_pictures_on_standard_output() {
    snapshot!(fox_refused(&["-o", "-", "-n", "2"]), @"
    exit code: 2
    ----- stderr -----
    error: 2 pictures do not fit on standard output
    hint: write files, with -o NAME.png, or make one picture
    ");
}

#[test]
fn json_and_a_picture_on_standard_output() {
    snapshot!(fox_refused(&["-o", "-", "--json"]), @"
    exit code: 2
    ----- stderr -----
    error: --json and the picture both want standard output
    hint: write the picture to a file, with -o NAME.png
    ");
}

#[test]
fn quiet_and_verbose() {
    snapshot!(fox_refused(&["-q", "-v"]), @"
    exit code: 2
    ----- stderr -----
    error: the argument '--quiet' cannot be used with '--verbose'
    hint: run it with --help to see what it takes
    ");
}

#[test]
fn a_file_that_must_not_be_replaced() {
    let cli = Cli::with_tiny_model();
    cli.write("fox-2.png", "precious");
    snapshot!(cli.run(["a red fox", "-o", "fox.png", "-n", "2", "--no-clobber"].iter().chain(&QUICK)), @"
    exit code: 2
    ----- stderr -----
    error: fox-2.png exists
    hint: choose another name, or leave --no-clobber out
    ");
    assert_eq!(cli.read("fox-2.png"), b"precious");
    assert_eq!(cli.files(), ["fox-2.png"]);
}

#[test]
fn an_output_that_is_a_reference() {
    let cli = Cli::with_tiny_model();
    let fox = cli.fox("fox.png", &[]);
    snapshot!(cli.run(["make it blue", "-i", "fox.png", "-o", "./fox.png"]), @"
    exit code: 2
    ----- stderr -----
    error: ./fox.png is read by this run and would be replaced
    hint: choose another name with -o
    ");
    assert_eq!(cli.read("fox.png"), fox);
}
