//! The front actor: keeps the server running, stops it gracefully, and fails when the server does.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actors::actor::front::Front;
use poem::Server;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Settings;
use super::listener::BoundedAcceptor;
use super::routes::{self, App};

/// Requests that one HTTP/2 connection may have in progress.
const HTTP2_STREAMS: u32 = 64;
/// Beyond the grace, for the server to notice.
const STOP_MARGIN: Duration = Duration::from_secs(1);

/// What the front needs. Cheap to clone: a restart uses the same socket.
#[derive(Clone)]
pub struct Args {
    /// Bound already, so that a wrong address is noticed at the start of the program.
    pub listener: Arc<TcpListener>,
    /// The way into the brain.
    pub front: Front,
    /// How it is set up.
    pub settings: Arc<Settings>,
    /// How long requests in flight may take to finish when it is stopped; then their connections are closed.
    pub shutdown_grace: Duration,
}

/// The actor that serves HTTP.
pub struct HttpFront;

/// What the front is told.
#[derive(Debug)]
pub enum HttpMsg {
    /// Stop accepting, finish what is in flight, answer, stop.
    Stop(RpcReplyPort<()>),
    /// The server is no more.
    Ended(Result<(), ServerError>),
}

/// Why the server ended by itself.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The socket could not be used.
    #[error("the HTTP server failed: {0}")]
    Io(#[from] std::io::Error),
    /// It panicked or was cancelled.
    #[error("the HTTP server broke: {0}")]
    Broken(#[from] tokio::task::JoinError),
    /// It returned without being asked to.
    #[error("the HTTP server ended without being asked to")]
    Ended,
}

/// What the front remembers.
pub struct State {
    args: Args,
    stop: CancellationToken,
    /// Stops the server also when this actor is killed.
    _stop_on_drop: DropGuard,
    server: Option<JoinHandle<()>>,
    waiting: Vec<RpcReplyPort<()>>,
}

/// Starts the front under `supervisor`, which learns of its failure; call it again to restart.
///
/// # Errors
/// [`SpawnErr`] when the actor system refuses.
pub async fn spawn(args: Args, supervisor: ActorCell) -> Result<ActorCell, SpawnErr> {
    let (actor, _) = Actor::spawn_linked(None, HttpFront, args, supervisor).await?;
    Ok(actor.get_cell())
}

/// Stops the front gracefully and waits until it is done, at most its grace and a second. Returns whether it was.
pub async fn stop(actor: &ActorCell, shutdown_grace: Duration) -> bool {
    let answer = ractor::rpc::call(actor, HttpMsg::Stop, Some(shutdown_grace + STOP_MARGIN)).await;
    matches!(answer, Ok(ractor::rpc::CallResult::Success(())))
}

impl Actor for HttpFront {
    type Msg = HttpMsg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, _: ActorRef<HttpMsg>, args: Args) -> Result<State, ActorProcessingErr> {
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        Ok(State { args, stop, _stop_on_drop: guard, server: None, waiting: Vec::new() })
    }

    async fn post_start(&self, myself: ActorRef<HttpMsg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        let server = tokio::spawn(serve(state.args.clone(), state.stop.clone()));
        state.server = Some(tokio::spawn(async move {
            let ended = server.await.map_err(ServerError::from).and_then(|result| result.map_err(ServerError::from));
            // Nobody is there to be told once the actor has stopped.
            let _ = myself.cast(HttpMsg::Ended(ended));
        }));
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<HttpMsg>,
        msg: HttpMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            HttpMsg::Stop(reply) => {
                state.waiting.push(reply);
                state.stop.cancel();
            }
            HttpMsg::Ended(Ok(())) if state.stop.is_cancelled() => {
                for reply in state.waiting.drain(..) {
                    let _ = reply.send(());
                }
                myself.stop(None);
            }
            HttpMsg::Ended(ended) => return Err(ended.err().unwrap_or(ServerError::Ended).into()),
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<HttpMsg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.stop.cancel();
        if let Some(server) = state.server.take() {
            let _ = tokio::time::timeout(state.args.shutdown_grace + STOP_MARGIN, server).await;
        }
        Ok(())
    }
}

async fn serve(args: Args, stop: CancellationToken) -> std::io::Result<()> {
    let limits = &args.settings.limits;
    let app = Arc::new(App::new(args.front, Arc::clone(&args.settings)));
    let places = Arc::new(Semaphore::new(limits.connections));
    let acceptor = BoundedAcceptor::new(args.listener.try_clone()?, app.connections.clone(), places, limits.clone())?;
    tracing::info!(address = %args.listener.local_addr()?, "serving HTTP");
    Server::new_with_acceptor(acceptor)
        .http2_max_concurrent_streams(HTTP2_STREAMS)
        .run_with_graceful_shutdown(routes::endpoint(&app), stop.cancelled_owned(), Some(args.shutdown_grace))
        .await
}
