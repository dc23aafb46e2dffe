"""Processes that train together in tests: started once, joined by gloo, and ended when one of them does not answer in time."""

import multiprocessing
import os
import tempfile
import traceback
from datetime import timedelta


def _serve(connection, rank, count, place):
    os.environ.update(GLOO_SOCKET_IFNAME="lo", OMP_NUM_THREADS="1")
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{place}", rank=rank, world_size=count, timeout=timedelta(seconds=60)
    )
    connection.send(("value", "ready"))
    while True:
        function, arguments = connection.recv()
        try:
            connection.send(("value", function(*arguments)))
        except Exception as error:  # the test judges it
            connection.send((type(error).__name__, str(error) or traceback.format_exc()))


class Processes:
    """A few processes, each of which calls the functions that it is sent. After one of them did not answer, all begin anew."""

    def __init__(self, count=2):
        self.count = count
        self._start()

    def _start(self):
        count, self.folder = self.count, tempfile.TemporaryDirectory()
        context = multiprocessing.get_context(
            "forkserver"
        )  # which imports once for all, and has no threads of the tests
        context.set_forkserver_preload(["torch", "netgraph.fas.solver.solver"])
        pipes = [context.Pipe() for _ in range(count)]
        place = os.path.join(self.folder.name, "group")
        self.connections = [here for here, _ in pipes]
        self.members = [
            context.Process(target=_serve, args=(there, rank, count, place), daemon=True)
            for rank, (_, there) in enumerate(pipes)
        ]
        for member in self.members:
            member.start()
        self._collect(seconds=300)  # imports take long on a busy machine

    def answer(self, function, *arguments, seconds=120):
        """Return what each process answers: the word "value" and the value, or the type of its error and the message."""
        for connection in self.connections:
            connection.send((function, arguments))
        return self._collect(seconds)

    def _collect(self, seconds):
        answers = []
        for rank, connection in enumerate(self.connections):
            if not connection.poll(seconds):
                self.end()
                self._start()
                raise TimeoutError(f"rank {rank} did not answer in {seconds} s")
            answers.append(connection.recv())
        return answers

    def call(self, function, *arguments, seconds=120):
        """Return the value of each process. An error of one of them is an error of the test."""
        answers = self.answer(function, *arguments, seconds=seconds)
        assert all(kind == "value" for kind, _ in answers), answers
        return [value for _, value in answers]

    def refusal(self, function, *arguments, seconds=120):
        """Return the message with which all processes refuse alike."""
        answers = self.answer(function, *arguments, seconds=seconds)
        assert {kind for kind, _ in answers} == {"NetgraphError"}, answers
        assert len({message for _, message in answers}) == 1, answers
        return answers[0][1]

    def end(self):
        for member in self.members:
            member.kill()
            member.join()
        self.folder.cleanup()
