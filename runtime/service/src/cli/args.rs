//! The grammar of the command line. The flags of settings are made from the list of settings.

use super::App;
use crate::config::{KEYS, Kind, Known, flag, folded};
use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

/// Begins the ids of arguments that are settings; the flag's name follows.
const SETTING: &str = "setting:";

/// The settings that were given as flags: `(name without dashes, value)`.
pub fn given_flags(matches: &ArgMatches) -> Vec<(String, String)> {
    let settings = matches.ids().filter_map(|id| Some((id.as_str(), id.as_str().strip_prefix(SETTING)?)));
    let value = |(id, name): (&str, &str)| Some((name.to_string(), matches.get_one::<String>(id)?.clone()));
    settings.filter_map(value).collect()
}

fn setting(name: &str, help: &str, value: &'static str) -> Arg {
    let long = flag(name);
    let arg = Arg::new(format!("{SETTING}{long}"))
        .value_name(value)
        .help(help.to_string())
        .help_heading("Settings");
    let arg = arg.value_parser(ValueParser::string()).allow_hyphen_values(true).action(ArgAction::Set);
    match name {
        "input.dir" => arg.long("input").alias(long).value_name("DIR"),
        "store.url" => arg.long("store").alias(long).value_name("URL"),
        "kafka.brokers" => arg.long("kafka").alias(long).value_name("BROKERS"),
        "log.format" => arg.long("log").alias(long),
        _ => arg.long(long),
    }
}

fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Count { .. } => "N",
        Kind::Bytes { .. } => "BYTES",
        Kind::Duration => "TIME",
        Kind::Text => "TEXT",
        Kind::Scalar => "VALUE",
        Kind::Choice(_) => "WORD",
    }
}

/// Flags of settings with a name that people choose: they are known by being used.
fn chosen(app: &App, arguments: &[OsString]) -> BTreeSet<String> {
    let known = Known::new(&app.settings);
    let exact: BTreeSet<String> = exact_keys(app).into_iter().map(|(name, _)| flag(&name)).collect();
    let names = arguments.iter().filter_map(|a| a.to_str()?.strip_prefix("--"));
    let names = names.map(|name| name.split('=').next().unwrap_or(name).to_string());
    let stems = KEYS.iter().filter(|key| key.is_chosen()).map(|key| flag(key.name.trim_end_matches('*')));
    let sections: Vec<String> = stems.chain([format!("{}-", app.settings.section)]).collect();
    names
        .filter(|n| {
            sections.iter().any(|s| n.starts_with(s.as_str()))
                && !exact.contains(n)
                && known.unfold(&folded(n)).is_some()
        })
        .collect()
}

fn exact_keys(app: &App) -> Vec<(String, String)> {
    let named = app.settings.keys.iter().filter(|key| !key.path.contains('*'));
    named.map(|key| (format!("{}.{}", app.settings.section, key.path), key.help.clone())).collect()
}

fn with_settings(command: Command, app: &App, arguments: &[OsString]) -> Command {
    let config = Arg::new("config").long("config").value_name("FILE").value_parser(value_parser!(PathBuf));
    let command = command.arg(config.help("Settings in TOML; environment and flags stand above it"));
    let own = KEYS
        .iter()
        .filter(|key| !key.is_chosen())
        .map(|key| setting(key.name, key.help, value_name(key.kind)));
    let program = exact_keys(app).into_iter().map(|(name, help)| setting(&name, &help, "VALUE"));
    // As it was typed, too: a chosen name may have dots.
    let chosen =
        chosen(app, arguments).into_iter().map(|name| setting(&name, "", "VALUE").alias(name).hide(true));
    let free = app.settings.keys.iter().filter(|key| key.path.contains('*'));
    let free = free.map(|key| (format!("{}.{}", app.settings.section, key.path), key.help.clone()));
    let library = KEYS.iter().filter(|key| key.is_chosen());
    let library = library.map(|key| (key.name.to_string(), key.help.to_string()));
    let free = library
        .chain(free)
        .map(|(name, help)| format!("\n  --{} VALUE  {help}", flag(&name.replace('*', "NAME"))));
    let after = "Every setting `a.b_c` is also the key `b_c` of `[a]` in the settings file and the environment \
                 variable TIDEMILL_A__B_C.";
    let free: String = free.collect();
    let after = if free.is_empty() {
        after.to_string()
    } else {
        format!("{after}\n\nFor each NAME that you choose:{free}")
    };
    command.args(own).args(program).args(chosen).after_help(after)
}

fn reading(name: &'static str, about: &'static str) -> Command {
    let config = Arg::new("config").long("config").value_name("FILE").value_parser(value_parser!(PathBuf));
    let format = Arg::new("format").long("format").value_name("FORMAT").value_parser(["table", "json"]);
    Command::new(name)
        .about(about)
        .arg(
            setting("store.url", "The store: a path, file://, s3:// or memory:// address", "URL")
                .help_heading(None),
        )
        .arg(config.help("Settings in TOML, for store.url"))
        .arg(format.default_value("table").help("Columns for people, or one JSON object a line"))
}

fn epoch(id: &'static str, help: &'static str) -> Arg {
    Arg::new(id).long(id).value_name("EPOCH|TAG").help(help)
}

fn at() -> Arg {
    epoch("at", "Read as of this commit instead of the newest")
}

fn limit(help: &'static str) -> Arg {
    Arg::new("limit").long("limit").value_name("N").value_parser(value_parser!(u64)).help(help)
}

fn table() -> Arg {
    Arg::new("table").value_name("TABLE").required(true).help("Such as train.sft; `tables` lists them")
}

fn switch(id: &'static str, help: &'static str) -> Arg {
    Arg::new(id).long(id).action(ArgAction::SetTrue).help(help)
}

fn readers() -> [Command; 6] {
    [
        reading("tables", "Lists the tables: rows, files, bytes").arg(at()),
        reading("show", "Prints rows of a table")
            .arg(table())
            .arg(at())
            .arg(limit("At most so many rows [20 for table]")),
        reading("path", "Prints where a table's Iceberg metadata stands, for other tools")
            .arg(table())
            .arg(at()),
        reading("log", "Lists commits: positions, changes, publications")
            .arg(at())
            .arg(limit("At most so many of the newest [20 for table]"))
            .arg(switch("last", "The newest only, and what it left unused or rejected"))
            .arg(switch(
                "stats",
                "What was asked of the store for each, on average, and what that costs a day",
            )),
        reading("diff", "Prints the rows that came and went between two commits")
            .arg(table())
            .arg(epoch("from", "The earlier commit").required(true))
            .arg(epoch("to", "The later commit").required(true)),
        reading("verify", "Checks every byte that is retained, or with --at what one commit refers to")
            .arg(at())
            .arg(switch("recompute", "Also recompute every table from the source tables and compare")),
    ]
}

fn tag() -> Command {
    let name = Arg::new("name").value_name("NAME").help("Without it all tags are listed");
    let config = Arg::new("config").long("config").value_name("FILE").value_parser(value_parser!(PathBuf));
    let store = setting("store.url", "The store: a path, file://, s3:// or memory:// address", "URL");
    Command::new("tag")
        .about("Names a commit, which is then kept for ever, or lists the names")
        .arg(name)
        .arg(epoch("at", "The commit [the newest]"))
        .arg(
            switch("delete", "Let the name go, and the commit with it once its time is over")
                .conflicts_with("at"),
        )
        .arg(store.help_heading(None))
        .arg(config.help("Settings in TOML, for store.url and store.retention"))
}

fn export(app: &App) -> Option<Command> {
    let exports = app.hooks.exports();
    let tables: BTreeSet<&'static str> = exports.iter().map(|e| e.table()).collect();
    let formats: BTreeSet<&'static str> = exports.iter().map(|e| e.format()).collect();
    let command = Command::new("export").about("Writes a training set for a trainer, as JSONL and Parquet");
    let folder =
        Arg::new("out").long("out").value_name("DIR").required(true).value_parser(value_parser!(PathBuf));
    let format = Arg::new("format").long("format").value_name("FORMAT").required(true);
    let config = Arg::new("config").long("config").value_name("FILE").value_parser(value_parser!(PathBuf));
    (!exports.is_empty()).then(|| {
        command
            .arg(
                Arg::new("table")
                    .value_name("TABLE")
                    .required(true)
                    .value_parser(tables.into_iter().collect::<Vec<_>>()),
            )
            .arg(format.value_parser(formats.into_iter().collect::<Vec<_>>()).help("Whose shape"))
            .arg(folder.help("The folder to write into"))
            .arg(setting("store.url", "The store", "URL").help_heading(None))
            .arg(config.help("Settings in TOML, for store.url"))
            .arg(at())
    })
}

fn demo() -> Command {
    let number = |id: &'static str, default: &'static str, help: &'static str| {
        Arg::new(id)
            .long(id)
            .value_name("N")
            .default_value(default)
            .value_parser(value_parser!(u64))
            .help(help)
    };
    let folder = Arg::new("dir")
        .long("dir")
        .value_name("DIR")
        .default_value("demo")
        .value_parser(value_parser!(PathBuf));
    Command::new("demo")
        .about("Runs the whole program over made-up traffic, then shows what came of it")
        .arg(number("seconds", "20", "How long traffic is written"))
        .arg(number("seed", "1", "The same seed makes the same records"))
        .arg(folder.help("Where the demo's files and store go; a demo that stands there is replaced"))
}

fn produce() -> Command {
    let rate = Arg::new("rate").long("rate").value_name("R").value_parser(rate);
    let partitions = Arg::new("partitions").long("partitions").value_name("N");
    let partitions = partitions.value_parser(value_parser!(i32).range(1..));
    Command::new("produce")
        .about("Puts the records of a folder's files into the Kafka topics of their streams, once")
        .arg(rate.help("At most so many records a second, evenly [as fast as they are taken]"))
        .arg(partitions.help("Partitions of a topic that is made [the broker's own default]"))
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "give a number of records a second above 0, such as 500 or 0.5".to_string())
}

/// The whole grammar. `arguments` are what will be parsed by it.
pub fn command(app: &App, arguments: &[OsString]) -> Command {
    let check = Command::new("check")
        .about("Says what would become of a file's records; nothing is written")
        .arg(Arg::new("file").value_name("FILE").required(true).value_parser(value_parser!(PathBuf)))
        .arg(
            Arg::new("stream")
                .long("stream")
                .value_name("STREAM")
                .required(true)
                .help("Whose records they are"),
        );
    let run = Command::new("run").about("Reads the input and keeps the tables of the store true").args([
        switch(
            "until-drained",
            "Take the ends of the input now, stop when all is committed and nothing is pending",
        ),
        switch(
            "accept-gap",
            "Go on where Kafka lost records before they were read; the root records what is missing",
        ),
    ]);
    let rollback = Command::new("rollback")
        .about("Makes a commit that goes back to an earlier one; the sources are read again from there")
        .arg(epoch("to", "The commit to go back to").required(true))
        .arg(switch("accept-gap", "Go back although the sources no longer hold all that followed"));
    let config = Command::new("config").about("Prints every setting in force, and whence it is");
    let mut root = Command::new(app.name)
        .about(app.about)
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true);
    if app.demo.is_some() {
        root = root.subcommand(with_settings(demo(), app, arguments));
    }
    let settings =
        [run, produce(), rollback, config, check].map(|command| with_settings(command, app, arguments));
    root.subcommands(settings).subcommand(tag()).subcommands(readers()).subcommands(export(app))
}
