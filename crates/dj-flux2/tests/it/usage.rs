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
      generate     Make pictures from a prompt and, optionally, reference images
      session      Draw picture after picture with the model loaded
      upscale      Enlarge pictures with a network or by Lanczos
      info         Print the parameters that a picture was made with
      inspect      Describe a file or folder of weights without loading it
      plan         Print how much memory a picture needs, without making it
      explain      Make a picture and a page that explains how it came about
      serve        Serve pictures over HTTP: APIs, a page, and /mcp for agents
      worker       Draw jobs of a fleet: many machines behind one NATS server
      fleet        Look at a fleet, drain its workers, repeat dead letters
      mcp          Offer tools to agents such as Claude (Model Context Protocol)
      presets      List the presets, with seconds and memory on this machine
      templates    List the templates of prompts
      config       Show and change the files of settings
      sheet        Put finished pictures on one labeled sheet
      compare      Say how two pictures and their parameters differ, and show it
      bench        Time single ops or whole pictures on this machine
      convert      Convert a model to another number format (resumable)
      completions  Print the completions of a shell, or install them
      man-pages    Write the manual pages into a folder
      doctor       Check this machine: CPU, GPUs, NVIDIA libraries, cache folders
      download     Download a model (resumable)
      models       List the published models and those on this disk
      verify       Check the files of downloaded models against their hashes
      remove       Delete a downloaded model from this disk
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help
      -V, --version  Print version

    `dj-flux2 "a red fox"` is short for `dj-flux2 generate "a red fox"`.
    `dj-flux2 generate --help` lists the main ones, --help-all has the rest.
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
      generate     Make pictures from a prompt and, optionally, reference images
      session      Draw picture after picture with the model loaded
      upscale      Enlarge pictures with a network or by Lanczos
      info         Print the parameters that a picture was made with
      inspect      Describe a file or folder of weights without loading it
      plan         Print how much memory a picture needs, without making it
      explain      Make a picture and a page that explains how it came about
      serve        Serve pictures over HTTP: APIs, a page, and /mcp for agents
      worker       Draw jobs of a fleet: many machines behind one NATS server
      fleet        Look at a fleet, drain its workers, repeat dead letters
      mcp          Offer tools to agents such as Claude (Model Context Protocol)
      presets      List the presets, with seconds and memory on this machine
      templates    List the templates of prompts
      config       Show and change the files of settings
      sheet        Put finished pictures on one labeled sheet
      compare      Say how two pictures and their parameters differ, and show it
      bench        Time single ops or whole pictures on this machine
      convert      Convert a model to another number format (resumable)
      completions  Print the completions of a shell, or install them
      man-pages    Write the manual pages into a folder
      doctor       Check this machine: CPU, GPUs, NVIDIA libraries, cache folders
      download     Download a model (resumable)
      models       List the published models and those on this disk
      verify       Check the files of downloaded models against their hashes
      remove       Delete a downloaded model from this disk
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help
      -V, --version  Print version

    `dj-flux2 "a red fox"` is short for `dj-flux2 generate "a red fox"`.
    `dj-flux2 generate --help` lists the main ones, --help-all has the rest.
    "#);
    assert_eq!(refused(&["help"]), refused(&["--help"]));
}

#[cfg(all(feature = "hub", feature = "mini"))]
#[test]
fn help_for_generate() {
    snapshot!(refused(&["generate", "--help"]), @r#"
    exit code: 0
    ----- stdout -----
    Make pictures from a prompt and, optionally, reference images

    Usage: dj-flux2 generate [OPTIONS] [PROMPT]...

    Arguments:
      [PROMPT]...  What the picture shows, in quotes

    Options:
          --prompt-file <FILE>   Read prompts from a file, one per line
          --from <FILE>          Start from the parameters stored in a picture
          --batch <FILE>         Read runs from a file, one JSON object a line
      -t, --template <NAME>      Put the prompt into a template
          --preset <NAME>        Settings that have a name, as in high,wide
      -m, --model <PATH>         Folder or name of a model, as klein-4b
          --lora <FILE[:SCALE]>  LoRA for the transformer
      -i, --input <FILE>         Reference image to edit or combine [aliases: --image, --ref-image]
          --source <FILE>        Picture to paint into
          --size <WxH>           Width and height at once, as in 1024x768
          --aspect <W:H>         Shape of the picture, as in 16:9
      -s, --steps <N>            Denoising steps [alias: --num-inference-steps]
      -g, --guidance <SCALE>     Classifier-free guidance scale, base models only [aliases:
                                 --guidance-scale, --cfg-scale]
      -S, --seed <N>             Seed, 64 bits, or several as in 1,5,10-20
      -n, --count <N>            Pictures per prompt
          --upscale <FACTOR>     Enlarge finished pictures so many times, as in 2
      -o, --output <FILE>        Output file, .png, .jpg or .webp, or a folder
          --json                 Print one JSON object for each picture
          --dry-run              Print what would be drawn, and draw nothing
          --open                 Open the pictures in the desktop's program for them
          --show                 Show the finished pictures in the terminal
          --show-steps           The same, and what they look like after each step
      -q, --quiet                Print only errors and random seeds
      -v, --verbose              Also print model, device and time of every stage
          --grid <AXIS=VALUES>   Draw a picture for each value of one or two settings
          --device <DEVICE>      Device: auto, cpu, cuda, or one GPU as in cuda:1
          --max-memory <SIZE>    Memory limit, as in 6GiB
          --help-all             Print help with all flags
      -h, --help                 Print help
    "#);
    assert_eq!(refused(&["help", "generate"]), refused(&["generate", "--help"]));
}

#[test]
fn help_for_info() {
    snapshot!(refused(&["info", "-h"]), @"
    exit code: 0
    ----- stdout -----
    Print the parameters that a picture was made with

    Usage: dj-flux2 info [OPTIONS] <FILE>

    Arguments:
      <FILE>  A PNG, JPEG or WebP picture made by dj-flux2 or another program that stores its parameters

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
    Time single ops or whole pictures on this machine

    Usage: dj-flux2 bench <COMMAND>

    Commands:
      ops       Time each op at the shapes of klein-4b, relative to the peak measured in the same run
      generate  Time a picture stage by stage, relative to the roofline
      help      Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help
    ");
    snapshot!(refused(&["bench", "ops", "-h"]), @"
    exit code: 0
    ----- stdout -----
    Time each op at the shapes of klein-4b, relative to the peak measured in the same run

    Usage: dj-flux2 bench ops [OPTIONS]

    Options:
          --filter <TEXT>  Time only ops whose name and shape contain this, as in `attention` or `linear
                           1536x`
      -h, --help           Print help

    Running:
          --dtype <DTYPE>    Number format of the computation [default: bf16] [possible values: f32,
                             bf16, int8, fp8]
          --device <DEVICE>  Device: auto, cpu, cuda, or one GPU as in cuda:1 [default: auto]
          --threads <N>      CPU threads [default: all that this process may use]

    Output:
          --json            Print one JSON object per result on standard output
          --compare <FILE>  Show the results next to those of an earlier run, a file that holds the
                            output of --json
      -q, --quiet           Print only errors and results
    ");
    snapshot!(refused(&["bench", "generate", "-h"]), @"
    exit code: 0
    ----- stdout -----
    Time a picture stage by stage, relative to the roofline

    Usage: dj-flux2 bench generate [OPTIONS]

    Options:
      -h, --help  Print help

    Model:
      -m, --model <PATH>         Model folder, transformer file, or name, as in generate [default:
                                 $DJ_FLUX2_MODEL]
          --text-encoder <PATH>  Text encoder, file or folder; required if --model is a file
          --vae <PATH>           Autoencoder, file or folder; required if --model is a file
          --synthetic <NAME>     Random weights, created in memory, with the sizes of klein-4b,
                                 klein-base-4b, klein-9b, klein-base-9b, klein-9b-kv or klein-mini
          --lora <FILE[:SCALE]>  LoRA for the transformer, as in generate; repeat for several

    Picture:
      -i, --input <FILE>  Reference image; repeat for several
      -W, --width <PX>    Width in pixels, a multiple of 16 from 64 to 4096 [default: as in generate]
      -H, --height <PX>   Height in pixels, with the same limits
      -s, --steps <N>     Denoising steps [default: set by the model]

    Running:
          --warmup <N>         Pictures made first and not timed [default: 0]
          --runs <N>           Pictures timed; the one with the median time is shown [default: 1]
          --quantize <FORMAT>  Quantize the weights while loading; int8 is the same as --dtype int8
                               [default: as stored] [possible values: bf16, int8, q8_0, q4_k]
          --resident           Keep all networks loaded between pictures, as a server does; every
                               picture has another prompt
          --batch <N>          Pictures made together, in one pass of each step [default: 1]
          --batching <HOW>     same-bytes: a picture does not depend on the others of its batch; fast:
                               its last bits may [default: same-bytes] [possible values: same-bytes,
                               fast]
          --max-memory <SIZE>  Memory limit, as in generate
          --dtype <DTYPE>      Number format of the computation [default: bf16] [possible values: f32,
                               bf16, int8, fp8]
          --device <DEVICE>    Device: auto, cpu, cuda, or one GPU as in cuda:1 [default: auto]
          --threads <N>        CPU threads [default: all that this process may use]

    Output:
          --json            Print one JSON object per result on standard output
          --compare <FILE>  Show the results next to those of an earlier run, a file that holds the
                            output of --json
      -q, --quiet           Print only errors and results
    ");
}

#[test]
fn help_for_convert() {
    snapshot!(refused(&["convert", "-h"]), @"
    exit code: 0
    ----- stdout -----
    Convert a model to another number format (resumable)

    Usage: dj-flux2 convert [OPTIONS] --to <FORMAT> <IN> <OUT>

    Arguments:
      <IN>   A model, as for -m, or one of its networks, file or folder
      <OUT>  Where to write: a folder for a whole model, a file for one network

    Options:
          --to <FORMAT>          Number format of the weights; bf16 and int8 are written as safetensors,
                                 q8_0 and q4_k as GGUF [possible values: bf16, int8, q8_0, q4_k]
          --component <NETWORK>  Convert only this network, to one file [possible values: transformer,
                                 text-encoder, vae]
          --force                Replace OUT if it exists
          --threads <N>          CPU threads [default: all that this process may use]
      -q, --quiet                Print only errors and OUT
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
    error: the prompt is 3 separate arguments
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
    error: invalid value '4.5' for '--steps <N>': it is no whole number from 0 on
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
    for seed in ["-2", "18446744073709551616", "x", "1.5"] {
        let shown = fox_refused(&["-S", seed]);
        let why = "for '--seed <N>': a seed is 0 to 18446744073709551615, or -1 for a random one";
        assert!(shown.starts_with("exit code: 2") && shown.contains(why), "{shown}");
    }
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
fn an_output_folder_below_a_file() {
    let cli = Cli::with_tiny_model();
    cli.write("file", "precious");
    snapshot!(cli.run(["a red fox", "-o", "file/such/fox.png"]), @"
    exit code: 2
    ----- stderr -----
    error: cannot write file/such/fox.png: file is not a folder
    hint: choose another name with -o
    ");
    assert_eq!(cli.read("file"), b"precious");
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
    hint: use {seed} or {index}; a brace in the name is {{ or }}
    ");
}

#[test]
fn several_pictures_on_standard_output() {
    snapshot!(fox_refused(&["-o", "-", "-n", "2"]), @"
    exit code: 2
    ----- stderr -----
    error: standard output takes one picture, not 2
    hint: write files, with -o NAME.png, or make one picture
    ");
}

#[test]
fn json_and_a_picture_on_standard_output() {
    snapshot!(fox_refused(&["-o", "-", "--json"]), @"
    exit code: 2
    ----- stderr -----
    error: --json and the picture cannot both go to standard output
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
    error: ./fox.png is an input of this run and would be replaced
    hint: choose another name with -o
    ");
    assert_eq!(cli.read("fox.png"), fox);
}

#[cfg(feature = "hub")]
#[test]
fn a_mistyped_subcommand_draws_nothing() {
    snapshot!(refused(&["modles"]), @r#"
    exit code: 2
    ----- stderr -----
    error: 'modles' is no subcommand
    hint: did you mean `dj-flux2 models`? to draw it: dj-flux2 generate "modles"
    "#);
    snapshot!(refused(&["ls"]), @r#"
    exit code: 2
    ----- stderr -----
    error: 'ls' is no subcommand
    hint: did you mean `dj-flux2 models`? to draw it: dj-flux2 generate "ls"
    "#);
    for word in ["list", "version", "run", "downlaod", "hepl", "infos"] {
        for args in [&[word][..], &["-v", word], &[word, "-o", "x.png"], &[word, "klein-4b"]] {
            let shown = refused(args);
            assert!(shown.starts_with("exit code: 2") && shown.contains("did you mean"), "{shown}");
        }
    }
    // The long form and `--` draw it.
    let cli = Cli::with_tiny_model();
    cli.stdout(["generate", "ls", "-o", "ls.png"].iter().chain(&QUICK));
    cli.stdout(QUICK.iter().chain(&["-o", "list.png", "--", "list"]));
    assert_eq!(cli.files(), ["list.png", "ls.png"]);
}

#[test]
fn the_name_of_a_file_is_no_prompt() {
    let cli = Cli::with_tiny_model();
    cli.write("fox.png", "precious");
    cli.write("weights", "precious");
    snapshot!(cli.run(["fox.png"]), @r#"
    exit code: 2
    ----- stderr -----
    error: 'fox.png' is a file, not a prompt
    hint: did you mean `dj-flux2 info fox.png`, or a prompt with `-i fox.png`? to draw it: dj-flux2 generate "fox.png"
    "#);
    snapshot!(cli.run(["weights"]), @r#"
    exit code: 2
    ----- stderr -----
    error: 'weights' is a file, not a prompt
    hint: did you mean `dj-flux2 inspect weights`? to draw it: dj-flux2 generate "weights"
    "#);
    assert_eq!(cli.files(), ["fox.png", "weights"]);
}
