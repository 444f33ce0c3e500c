// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A vCPU with a thread of its own on a CPU of the test's choice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use anyhow::{anyhow, Context, Result};
use nix::unistd::{gettid, Pid};

use crate::host::{move_to, pin_to};
use crate::vcpu::Vcpu;

type Job = Box<dyn FnOnce(&mut Vcpu) + Send>;

/// A vCPU that runs on a thread of its own. Between jobs the thread keeps its
/// CPU busy, so that the vCPU's perf events stay ACTIVE there, unless it is told to
/// sleep.
#[derive(Debug)]
pub struct VcpuThread {
    vcpu: Arc<Mutex<Vcpu>>,
    busy: Arc<AtomicBool>,
    id: Pid,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl VcpuThread {
    /// Starts the thread.
    pub fn start(vcpu: Vcpu, cpu: usize) -> Result<Self> {
        let vcpu = Arc::new(Mutex::new(vcpu));
        let (jobs, queue) = channel();
        let theirs = Arc::clone(&vcpu);
        let busy = Arc::new(AtomicBool::new(true));
        let is_busy = Arc::clone(&busy);
        let (ready, pinned) = channel();
        let thread = std::thread::spawn(move || {
            let result = pin_to(cpu).map(|()| gettid());
            let usable = result.is_ok();
            // The other end waits for it; if it does not, nothing is lost.
            let _ = ready.send(result);
            if usable {
                serve(&theirs, &queue, &is_busy);
            }
        });
        let id = pinned.recv().context("the vCPU's thread died")??;
        Ok(Self {
            vcpu,
            busy,
            id,
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Returns the thread's number.
    pub fn id(&self) -> Pid {
        self.id
    }

    /// Lets the thread run on these CPUs only.
    pub fn move_to(&self, cpus: &[usize]) -> Result<()> {
        move_to(self.id, cpus)
    }

    /// Has the thread keep its CPU busy between jobs, or sleep there. A thread that
    /// sleeps does so until its next job.
    pub fn keep_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }

    /// Starts a job on the thread; the result is waited for on the receiver.
    pub fn spawn<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Vcpu) -> Result<T> + Send + 'static,
    ) -> Result<Receiver<Result<T>>> {
        let (done, result) = channel();
        let job: Job = Box::new(move |vcpu| {
            // Nobody waits any more if the test has failed meanwhile.
            let _ = done.send(job(vcpu));
        });
        self.jobs
            .as_ref()
            .and_then(|jobs| jobs.send(job).ok())
            .context("the vCPU's thread died")?;
        Ok(result)
    }

    /// Runs a job on the thread and waits for its end.
    pub fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Vcpu) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.spawn(job)?.recv().context("the vCPU's thread died")?
    }

    /// Ends the thread; returns the vCPU for use on another.
    pub fn end(mut self) -> Result<Vcpu> {
        self.join();
        let vcpu = Arc::clone(&self.vcpu);
        drop(self);
        Arc::try_unwrap(vcpu)
            .ok()
            .and_then(|mutex| mutex.into_inner().ok())
            .context("the vCPU's thread died")
    }

    /// Returns the vCPU for use by the calling thread.
    pub fn vcpu(&self) -> Result<MutexGuard<'_, Vcpu>> {
        self.vcpu
            .lock()
            .map_err(|_| anyhow!("the vCPU's thread died"))
    }
}

impl VcpuThread {
    fn join(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic was reported on its thread and by the lost result.
            let _ = thread.join();
        }
    }
}

impl Drop for VcpuThread {
    fn drop(&mut self) {
        self.join();
    }
}

fn serve(vcpu: &Mutex<Vcpu>, queue: &Receiver<Job>, busy: &AtomicBool) {
    loop {
        let job = match busy.load(Ordering::Relaxed) {
            true => queue.try_recv(),
            false => queue.recv().map_err(|_| TryRecvError::Disconnected),
        };
        match job {
            Ok(job) => match vcpu.lock() {
                Ok(mut vcpu) => job(&mut vcpu),
                Err(_) => return,
            },
            Err(TryRecvError::Empty) => std::hint::spin_loop(),
            Err(TryRecvError::Disconnected) => return,
        }
    }
}

/// A thread that keeps a CPU busy, so that others there are scheduled out.
#[derive(Debug)]
pub struct Competitor {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Competitor {
    /// Starts the thread.
    pub fn start(cpu: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            pin_to(cpu)?;
            while !theirs.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
            Ok(())
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Stops the thread; fails if it could not do its work.
    pub fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            _ => Err(anyhow!("the competing thread died")),
        }
    }
}

impl Drop for Competitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
