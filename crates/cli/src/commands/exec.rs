//! `exec`: a command in a sandbox, joined to this terminal.

use stacyvm_api_types::{Code, ExecRequest, TtySize};
use stacyvm_client::SessionInput;
use stacyvm_types::format_duration;

use super::map;
use crate::{
    CommandArgs, Context, ExitStatus, Failure,
    args::ExecArgs,
    output::print_json,
    session::{Joined, drive},
    terminal::{self, RawMode},
};

pub(super) async fn exec(context: &Context, args: ExecArgs) -> Result<ExitStatus, Failure> {
    let joined = args.command.joined()?;
    let request = request(args.command, joined);
    let result = if context.out.is_json() {
        waited_for(context, &args.id, &request, joined).await
    } else {
        followed(context, &args.id, &request, joined).await
    };
    result.map_err(Failure::before_command)
}

impl CommandArgs {
    /// What of this terminal the command is joined to.
    pub fn joined(&self) -> Result<Joined, Failure> {
        if self.tty && self.interactive && !terminal::stdin_is_terminal() {
            return Err(Failure::new(
                ExitStatus::USAGE,
                "standard input is not a terminal; leave out -t",
            ));
        }
        Ok(Joined { stdin: self.interactive, terminal: self.tty })
    }
}

fn request(args: CommandArgs, joined: Joined) -> ExecRequest {
    let mut env = args.env;
    if joined.terminal
        && !env.iter().any(|(name, _)| name == "TERM")
        && let Ok(term) = std::env::var("TERM")
    {
        env.push(("TERM".to_owned(), term));
    }
    let mut words = args.command;
    let (command, arguments, mode) = if args.shell {
        (words.join(" "), None, "shell")
    } else {
        let program = words.remove(0);
        (program, (!words.is_empty()).then_some(words), "argv")
    };
    let tty = joined.terminal.then(|| {
        let (rows, cols) = terminal::size();
        TtySize { rows, cols }
    });
    ExecRequest {
        command,
        args: arguments,
        mode: Some(mode.to_owned()),
        env: map(env),
        workdir: args.workdir,
        user: args.user,
        timeout: args.timeout.map(format_duration),
        tty,
        ..ExecRequest::default()
    }
}

/// With `--output json`: one reply, as the API gives it.
async fn waited_for(
    context: &Context,
    id: &stacyvm_types::SandboxId,
    request: &ExecRequest,
    joined: Joined,
) -> Result<ExitStatus, Failure> {
    if joined.stdin || joined.terminal {
        let message = "-i and -t have no JSON form; leave out --output json";
        return Err(Failure::new(ExitStatus::USAGE, message));
    }
    match context.client.exec(id, request).await {
        Ok(reply) => {
            print_json(reply.json())?;
            Ok(ExitStatus::of_command(reply.exit_code, &reply.reason))
        }
        Err(error) if error.code() == Some(Code::Timeout) => {
            Err(Failure { status: ExitStatus::TIMEOUT, ..Failure::from(error) })
        }
        Err(error) => Err(error.into()),
    }
}

async fn followed(
    context: &Context,
    id: &stacyvm_types::SandboxId,
    request: &ExecRequest,
    joined: Joined,
) -> Result<ExitStatus, Failure> {
    let session = context.client.session(id, request).await?;
    let input = session.input();
    if !joined.stdin && !joined.terminal {
        // Nothing will come: the command reads the end at once.
        let _ = input.send(SessionInput::Eof).await;
    }
    let raw = match joined.terminal && joined.stdin {
        true => Some(RawMode::enter()?),
        false => None,
    };
    let ended = drive(session, input, |input| input, joined).await;
    drop(raw);
    Ok(ended?.status())
}
