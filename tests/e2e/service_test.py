"""Health, reflection, the two Get calls, metadata, and the end of the service."""
import os
import socket
import subprocess
import threading
import time
import unittest

import grpc
import harness as h
from harness import pb
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

CODE = grpc.StatusCode
FOLDER = os.path.join(h.GOLDEN, "tiny", "arch", "llama")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
            "phalanx.v1.Control", "phalanx.v1.Inference"]


def long_request(n=240):
    return h.greedy([1, 2, 3], n)


class Health(unittest.TestCase):
    def test_check_and_watch_through_a_life(self):
        d = h.Daemon(h.make_set(FOLDER, 2), wait=False)
        try:
            stub = health_pb2_grpc.HealthStub(d.channel)
            seen, ended = [], []

            def watch():
                try:
                    for r in stub.Watch(health_pb2.HealthCheckRequest(service="phalanx.v1.Inference"), timeout=60):
                        seen.append(r.status)
                except grpc.RpcError as e:
                    ended.append(e.code())
            t = threading.Thread(target=watch)
            t.start()
            early = None
            try:
                list(d.inference.Generate(long_request(1), timeout=5))
            except grpc.RpcError as e:
                early = e
            if early:                            # it listens before it is ready
                self.assertEqual(early.code(), CODE.UNAVAILABLE)
                self.assertEqual(dict(early.trailing_metadata()).get("retryable"), "true")
                self.assertGreater(int(dict(early.trailing_metadata())["retry-after-ms"]), 0)
            self.assertIn(d.info().state, ("starting", "ready"))
            d._find("out", r"^ready address=(\S+)", lambda m: m.group(1))
            for service in ("", "phalanx.v1.Inference", "phalanx.v1.Control"):
                self.assertEqual(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status, SERVING)
            with self.assertRaises(grpc.RpcError) as x:
                stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=5)
            self.assertEqual(x.exception.code(), CODE.NOT_FOUND)
            unknown = stub.Watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=30)
            self.assertEqual(next(unknown).status, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            self.assertEqual(d.stop(), 0)
            t.join(10)
            self.assertFalse(t.is_alive())
            self.assertEqual(seen[-2:], [SERVING, NOT_SERVING])
            self.assertLessEqual(len(seen), 3)
            self.assertEqual(ended, [CODE.UNAVAILABLE])
        finally:
            d.kill()

    def test_a_lost_rank_shows(self):
        d = h.Daemon(h.make_set(FOLDER, 2))
        try:
            stub = health_pb2_grpc.HealthStub(d.channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
            self.assertEqual(next(watch).status, SERVING)
            s = d.inference.Generate(long_request(), timeout=60)
            os.kill(d.info().ranks[1].pid, 9)
            try:
                list(s)
            except grpc.RpcError as e:
                self.assertEqual(e.code(), CODE.UNAVAILABLE)
                self.assertEqual(dict(e.trailing_metadata()).get("retryable"), "true")
            self.assertEqual(next(watch).status, NOT_SERVING)
            self.assertEqual(next(watch).status, SERVING)
            self.assertEqual(d.info().generation, 2)
            self.assertEqual(len(h.ids_of(d.inference.Generate(long_request(5), timeout=20))[0]), 5)
            self.assertEqual(d.stop(), 0)
        finally:
            d.kill()


class Served(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = h.Daemon(h.make_set(FOLDER, 2))

    @classmethod
    def tearDownClass(cls):
        cls.d.stop_well()

    def test_reflection_makes_a_client(self):
        db = ProtoReflectionDescriptorDatabase(self.d.channel)
        self.assertEqual(sorted(db.get_services()), SERVICES)
        pool = descriptor_pool.DescriptorPool(db)
        method = pool.FindServiceByName("phalanx.v1.Inference").FindMethodByName("Generate")
        self.assertEqual(method.input_type.full_name, "phalanx.v1.GenerateRequest")
        self.assertEqual(pool.FindMessageTypeByName("phalanx.v1.Prompt").fields_by_name["text"].type, 9)     # string
        self.assertEqual(pool.FindEnumTypeByName("phalanx.v1.FinishReason").values_by_name["LENGTH"].number, 2)

    def ask(self, *requests, version="v1alpha"):
        call = self.d.channel.stream_stream("/grpc.reflection.%s.ServerReflection/ServerReflectionInfo" % version,
                                            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                                            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString)
        return list(call(iter(requests), timeout=10))

    def test_reflection_both_versions(self):
        q = reflection_pb2.ServerReflectionRequest
        for version in ("v1", "v1alpha"):
            got = self.ask(q(list_services=""), q(file_by_filename="phalanx/v1/control.proto"),
                           q(file_containing_symbol="phalanx.v1.Inference.Score"),
                           q(file_containing_symbol="phalanx.v1.TokenIds.ids"),
                           q(file_containing_symbol="grpc.health.v1.HealthCheckResponse.ServingStatus"),
                           q(file_containing_symbol="phalanx.v1.Nothing", host="here"), q(file_by_filename="nothing.proto"),
                           q(all_extension_numbers_of_type="phalanx.v1.Prompt"),
                           q(file_containing_extension=reflection_pb2.ExtensionRequest(containing_type="x", extension_number=1)),
                           version=version)
            self.assertEqual(sorted(s.name for s in got[0].list_services_response.service), SERVICES)
            names = [descriptor_pb2.FileDescriptorProto.FromString(g.file_descriptor_response.file_descriptor_proto[0]).name
                     for g in got[1:5]]
            self.assertEqual(names, ["phalanx/v1/control.proto", "phalanx/v1/inference.proto", "phalanx/v1/inference.proto",
                                     "grpc/health.proto"])
            self.assertEqual([g.error_response.error_code for g in got[5:]], [CODE.NOT_FOUND.value[0]] * 4)
            self.assertEqual(got[5].original_request.file_containing_symbol, "phalanx.v1.Nothing")
            self.assertEqual(got[5].valid_host, "here")

    def test_server_info(self):
        i = self.d.info()
        self.assertEqual((i.state, len(i.ranks), i.generation), ("ready", 2, 1))
        self.assertEqual({s.state for s in i.cold_start}, {"done"})
        self.assertEqual(i.limits.max_message_bytes, 8 << 20)
        self.assertIn("listen", {s.key for s in i.settings})
        self.assertTrue(any(s.name == "grpc" and s.live_bytes for s in i.subsystems))

    def test_model_info(self):
        m = self.d.control.GetModelInfo(h.ctl.GetModelInfoRequest(), timeout=5)
        self.assertEqual((m.family, m.n_vocab, m.ranks, m.has_tokenizer), ("llama", 321, 2, False))
        self.assertEqual(m.kv_bytes_per_token, sum(r.kv_planned for r in self.d.info().ranks) // 16384)
        with self.assertRaises(grpc.RpcError) as x:
            self.d.control.GetModelInfo(h.ctl.GetModelInfoRequest(model="other"), timeout=5)
        self.assertEqual(x.exception.code(), CODE.NOT_FOUND)

    def test_a_port_in_use(self):
        cmd = [os.path.join(h.BUILD, "bin", "phalanxd"), "--set", h.make_set(FOLDER, 2), "--listen", self.d.address]
        p = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=20)
        self.assertEqual(p.returncode, 3)
        self.assertIn("listen", p.stderr)
        self.assertIn(self.d.address, p.stderr)

    def test_bytes_that_are_no_http2(self):
        host, port = self.d.address.split(":")
        for data in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(4096)):
            with socket.create_connection((host, int(port)), timeout=5) as s:
                s.sendall(data)
                s.settimeout(5)
                try:
                    while s.recv(65536):
                        pass
                except (ConnectionError, socket.timeout):
                    pass
        self.assertEqual(self.d.info().state, "ready")

    def test_initial_metadata_comes_before_the_tokens(self):
        s = self.d.inference.Generate(long_request(20), timeout=20)
        s.initial_metadata()
        self.assertEqual(len(h.ids_of(s)[0]), 20)


class End(unittest.TestCase):
    def test_sigterm_lets_streams_finish(self):
        d = h.Daemon(h.make_set(FOLDER, 2), "--grace_s", "10")
        try:
            streams = [d.inference.Generate(long_request(), timeout=60) for _ in range(4)]
            for s in streams:
                next(s)
            d.process.terminate()
            for s in streams:
                self.assertGreater(len(h.ids_of(s)[0]), 200)
            self.assertEqual(d.process.wait(10), 0)
        finally:
            d.kill()

    def test_the_grace_time_is_an_end(self):
        d = h.Daemon(h.make_set(FOLDER, 2), "--grace_s", "0")
        try:
            prompt = [(i * 37) % 321 for i in range(256)]
            streams = [d.inference.Score(pb.ScoreRequest(prompt=pb.Prompt(token_ids=pb.TokenIds(ids=prompt)), top=321), timeout=60)
                       for _ in range(40)]
            next(streams[0])
            d.process.terminate()
            began = time.monotonic()
            codes = set()
            for s in streams:
                try:
                    list(s)
                    codes.add(CODE.OK)
                except grpc.RpcError as e:
                    codes.add(e.code())
            self.assertLessEqual(codes, {CODE.OK, CODE.UNAVAILABLE})
            self.assertIn(CODE.UNAVAILABLE, codes)
            self.assertEqual(d.process.wait(10), 0)
            self.assertLess(time.monotonic() - began, 8)
        finally:
            d.kill()

    def test_clients_that_hang_do_not_hold_the_end_up(self):
        d = h.Daemon(h.make_set(FOLDER, 2), "--grace_s", "1")
        try:
            lazy = d.inference.Score(pb.ScoreRequest(prompt=pb.Prompt(token_ids=pb.TokenIds(ids=[5] * 250)), top=321), timeout=60)
            refl = d.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
            gate = threading.Event()

            def never():
                gate.wait(30)
                return
                yield
            open_stream = refl(never(), timeout=60)
            time.sleep(0.2)
            began = time.monotonic()
            self.assertEqual(d.stop(), 0)
            self.assertLess(time.monotonic() - began, 6)
            gate.set()
            lazy.cancel()
            open_stream.cancel()
        finally:
            d.kill()


if __name__ == "__main__":
    unittest.main(verbosity=2)
