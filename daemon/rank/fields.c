#include "daemon/rank/fields.h"

#include <string.h>

#include "proto/config/config.h"

#define RESHARD "make the set again with phalanx shard, or copy it again from where it is good"
#define SAMESET "give every host the same set: copy the whole folder, never single files"

/* The first DAEMON_N_FIELDS rows are in the order of daemon_field. */
const daemon_refusable daemon_refusables[] = {
    [DAEMON_FIELD_HELLO] = { "hello", "a rank said no hello within hello_s, half of one, one that cannot be read, or two",
        "look for lines of that rank above; raise hello_s if its host or its disk is slow" },
    [DAEMON_FIELD_HELLO_RANK] = { "hello.rank", "a rank number came twice, or is none of this job",
        "two jobs got the same numbers from the launcher: start one at a time, by phalanx serve only" },
    [DAEMON_FIELD_HELLO_WORLD] = { "hello.world", "a rank was started for another number of ranks",
        "look for OMPI_COMM_WORLD_SIZE in the environment of the service" },
    [DAEMON_FIELD_HELLO_PID] = { "hello.pid", "a hello names another process than the one that sent it",
        "something stands between rank and coordinator: look for a wrapper around phalanx-rank" },
    [DAEMON_FIELD_GENERATION] = { "generation", "a rank of a former job of this service spoke up, and one of this job did not",
        "end the process that is named; then start again" },
    [DAEMON_FIELD_WIRE] = { "wire", "another version of the protocol between coordinator and ranks", "install one build on all hosts" },
    [DAEMON_FIELD_BUILD] = { "build", "a rank is of another build", "install one build on all hosts" },
    [DAEMON_FIELD_MPI_VERSION] = { "mpi.version", "a rank loads another MPI library", "install one MPI on all hosts; look at LD_LIBRARY_PATH" },
    [DAEMON_FIELD_ARITHMETIC] = { "arithmetic", "numbers would be computed by another definition", SAMESET "; install one build" },
    [DAEMON_FIELD_ROPE] = { "rope", "tables of positions differ: other rope settings, or another libm", SAMESET "; install one build and one libm" },
    [DAEMON_FIELD_MANIFEST] = { "manifest", "manifest.json was edited, or is of another set", SAMESET "; " RESHARD },
    [DAEMON_FIELD_PLAN] = { "plan", "a file was cut for another split of the model", SAMESET },
    [DAEMON_FIELD_TOKENIZER] = { "tokenizer", "a file was made with another tokenizer", SAMESET },
    [DAEMON_FIELD_CLOCK] = { "clock", "a host's clock differs by more than max_clock_skew_s", "let NTP set the clocks, or raise max_clock_skew_s" },
    [DAEMON_FIELD_MEMORY] = { "memory", "weights and buffers alone do not fit the free memory of a rank's host",
        "end what else takes memory, use more ranks on more hosts, or a smaller weight format; phalanx plan tells what fits" },
    [DAEMON_FIELD_KV_TOKENS] = { "kv.tokens", "the KV cache does not fit beside weights and buffers",
        "set kv.tokens to what the line says at most, or free memory" },
    [DAEMON_FIELD_RANKS] = { "ranks", "the set was cut for another number of ranks", "set ranks to what the set says, or shard again" },
    [DAEMON_FIELD_LAUNCHER] = { "launcher", "mpirun ended or cannot be started", "read its own lines above; are the limits (ulimit) high enough?" },
    [DAEMON_FIELD_RANK_GONE] = { "rank", "a rank ended during the start; or a file is of another rank", "read its lines above; " SAMESET },
    [DAEMON_FIELD_DEADLINE] = { "deadline", "a step of the start took longer than its deadline", "look at disk and network of the rank that is missing; a machine that is only slow needs a larger coldstart_s" },
    [DAEMON_FIELD_ULIMIT_SPACE] = { "ulimit.address_space", "a rank may not map what its plan needs (ulimit -v)",
        "raise the limit, or remove it: ulimit -v unlimited, LimitAS=infinity" },
    [DAEMON_FIELD_ULIMIT_FILES] = { "ulimit.files", "a rank may not open the files and sockets that it needs (ulimit -n)",
        "raise the limit: ulimit -n 1024, LimitNOFILE=1024" },
    [DAEMON_FIELD_TMPDIR] = { "tmpdir", "the folder for sockets and MPI's shared memory is not writable, its path is too long, or it has too little room (9 MiB, and 4.1 MiB a rank); /dev/shm is not used",
        "let XDG_RUNTIME_DIR, else TMPDIR, name a local folder with that room, best a tmpfs" },
    [DAEMON_FIELD_GPU_NAME] = { "gpu.name", "a rank has another kind of GPU than rank 0", "give all ranks GPUs of one kind: devices says which" },
    [DAEMON_FIELD_GPU_ARCH] = { "gpu.arch", "a rank's GPU has another compute capability than rank 0's", "give all ranks GPUs of one kind: devices says which" },
    [DAEMON_FIELD_GPU_DRIVER] = { "gpu.driver", "a rank's host has another NVIDIA driver", "install one driver on all hosts" },
    [DAEMON_FIELD_GPU_RUNTIME] = { "gpu.runtime", "a rank's plugin was made with another CUDA toolkit", "install one build on all hosts" },
    [DAEMON_FIELD_GPU_SHARED] = { "gpu.shared", "two ranks would use one GPU, which NCCL does not allow",
        "give each rank a GPU of its own (devices, CUDA_VISIBLE_DEVICES), use fewer ranks, or set reduce: ordered" },
    [DAEMON_FIELD_GPU_MEMORY] = { "gpu.memory", "weights and buffers alone do not fit the free memory of a rank's GPU",
        "end what else uses the GPU (nvidia-smi), use more ranks on more GPUs, or a smaller weight format; phalanx plan tells what fits" },
    [DAEMON_FIELD_NCCL] = { "nccl", "reduce: nccl, and libnccl.so.2 cannot be opened, is too old, or fails", "install NCCL, or set reduce: ordered" },
    [DAEMON_FIELD_NCCL_VERSION] = { "nccl.version", "a rank loads another version of NCCL", "install one NCCL on all hosts; look at LD_LIBRARY_PATH" },
    { "sequence", "check_sequence: the ranks did not make the same calls: a fault of this program", "keep the log, and report it with the line that names rank and call" },
    /* device: cuda, as kernels/cuda names it */
    { "plugin", "device: cuda, and libphalanx-cuda.so is missing, needs a library that is missing, or is of another build",
        "install the build with CUDA beside the programs, and the toolkit's cuBLASLt; or set device: cpu" },
    { "driver", "device: cuda, and the NVIDIA driver is missing, too old, or answers with an error", "install a driver that is new enough; nvidia-smi tells what there is" },
    { "device", "no GPU is visible, none has this number, or it is too old; or the key differs on a rank",
        "look at nvidia-smi, CUDA_VISIBLE_DEVICES and devices; give every host the same configuration" },
    { "fp8_activations", "products with FP8 activations are asked for, and no weight of the set is FP8, or a GPU is below compute capability 8.9; or the key differs on a rank",
        "set fp8_activations: false, make the set with --format FP8, or use GPUs of 8.9 or more; give every host the same configuration" },
    { "<op>", "an operation on the GPU failed", "read its line: CUDA's own words stand there; nvidia-smi and the kernel's log (Xid) tell of hardware" },
    /* configuration */
    { "devices", "devices is no list of numbers", "numbers with commas between them, in quotes: \"0,1\"" },
    { "<key>", "a global key of the configuration differs on a rank", "give every host the same configuration file" },
    { "listen", "the address is in use, or cannot be listened on", "end what listens there, or set listen" },
    { "set", "there is no such folder", "set the path of the set" },
    { "depth", "verify names no depth", "one of auto, header, sample, full" },
    /* the hello's numbers */
    { "plan.<number>", "a rank computes another size for one of its arenas", "give every host the same set and build" },
    { "shard.<fact>", "the header of a rank's file says something else than the manifest", SAMESET },
    { "frame", "a connection ended inside its first message", "look for lines of the rank that is missing; did it crash?" },
    { "frame.<part>", "a first message of another protocol version, or none of ours", "install one build on all hosts" },
    { "selftest", "a processor's or a transport's result is not what the definition gives", "take the host out of service; with cpu: scalar the fast kernels are left out" },
    { "setup.kv_bytes", "the memory file for the KV cache that a rank was handed cannot be mapped, or has another size",
        "its words say why: without memory, lower kv.tokens or raise ulimit -v; else report it, with the line" },
    { "shm_fd", "the memory file through which the ranks add cannot be mapped, or has another size",
        "its words say why: without memory, raise ulimit -v; else report it, with the line" },
    /* files of a set */
    { "file", "a file of the set is missing, unreadable, or no regular file", "look at the path and its permissions; " SAMESET },
    { "manifest.json", "there is no manifest, it is cut off, or no JSON", RESHARD },
    { "bytes", "a file is longer or shorter than the manifest says", "copy it again" },
    { "header", "the header of a file is damaged", "copy it again" },
    { "tensors", "a file holds more or fewer tensors than this rank has", SAMESET },
    { "format", "a set of another format version", "shard again with this build" },
    { "layout", "weights lie in another order", "shard again with this build" },
    { "world", "a file was cut for another number of ranks", SAMESET },
    { "revision", "a file is of another revision of the model", SAMESET },
    { "source", "a file was made from other weights", SAMESET },
    { "model", "a file is of another model", SAMESET },
    { "policy", "a file was made with another weight format", SAMESET },
    { "digest", "a file uses another kind of digest", SAMESET },
    { "builder", "a file was made by another build of phalanx shard", SAMESET },
    { "size", "a file was cut off while it was read or served", "copy the set to a new folder, never over one in use" },
    { "stored_bytes", "the manifest contradicts itself", RESHARD },
    { "mapped_bytes", "the manifest contradicts itself", RESHARD },
    { "arch", "the manifest's description of the model is missing", RESHARD },
    { "assets", "the manifest's list of assets is damaged", RESHARD },
    { "split", "the manifest does not say how the model is split, or says what no version knows", RESHARD },
    { "vocab", "the manifest does not say how the vocabulary is split, or says what no version knows", RESHARD },
    { "source_bytes", "the manifest is incomplete", RESHARD },
    { "ranks.<n>.<key>", "the manifest's list of files is damaged", RESHARD },
    { "assets.<n>.<key>", "the manifest's list of assets is damaged", RESHARD },
    { "arch.<key>", "the manifest's description of the model is damaged", RESHARD },
    { "types", "the manifest's list of types is damaged", RESHARD },
    { "types.<tensor>", "the manifest's list of types is damaged", RESHARD },
    { "generation.<key>", "a default of generation in the manifest is out of range", RESHARD },
    { "tokenizer.json", "the tokenizer is not the one that the manifest names", SAMESET },
    { "chat_template.txt", "the chat template is not the one that the manifest names", SAMESET },
    { "chat_template.json", "the chat table is not the one that the manifest names, or is damaged", SAMESET },
    { "<tensor>", "the bytes of a tensor are not those that were written; or it is missing", "copy the file again; if it comes back, test memory and disk" },
    { "<tensor>.bytes", "a tensor's extent is not what its shape needs", "copy the file again" },
    { "<tensor>.offset", "a tensor lies somewhere else: overlap, hole, or past the end", "copy the file again" },
    { "<tensor>.shape", "a tensor has another shape", SAMESET },
    { "<tensor>.dtype", "a tensor has another type of numbers", SAMESET },
    { "<tensor>.type", "a tensor has another type, shape or no digest", SAMESET },
};
const size_t daemon_n_refusables = sizeof daemon_refusables / sizeof *daemon_refusables;

const char *daemon_field_name(daemon_field f) { return daemon_refusables[f].field; }

static bool ends(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n > k && !strcmp(s + n - k, tail);
}

static bool is_tensor(const char *s)
{
    return !strncmp(s, "blk.", 4) || !strncmp(s, "token_embd.", 11) || !strncmp(s, "output", 6);
}

/* The pattern that a name belongs to. */
static const char *family(const char *s)
{
    static const char *const tails[] = { ".bytes", ".offset", ".shape", ".dtype", ".type" };
    static const char *const rows[] = { "<tensor>.bytes", "<tensor>.offset", "<tensor>.shape", "<tensor>.dtype", "<tensor>.type" };
    const proto_field *f = proto_config_find(s);

    static const char *const ops[] = { "embed", "add_norm", "gather", "quant", "matmul", "rope_append", "attention", "swiglu",
                                       "candidates", "upload", "download", "wait", "alloc", "record", "end", "replay", "info", "stream" };

    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (!strcmp(s, ops[i])) return "<op>";
    if (is_tensor(s)) {
        for (size_t i = 0; i < sizeof tails / sizeof *tails; i++)
            if (ends(s, tails[i])) return rows[i];
        return "<tensor>";
    }
    if (!strncmp(s, "plan.", 5)) return "plan.<number>";
    if (!strncmp(s, "frame.", 6)) return "frame.<part>";
    if (!strncmp(s, "shard.", 6)) return "shard.<fact>";
    if (!strncmp(s, "ranks.", 6)) return "ranks.<n>.<key>";
    if (!strncmp(s, "assets.", 7)) return "assets.<n>.<key>";
    if (!strncmp(s, "types.", 6)) return "types.<tensor>";
    if (!strncmp(s, "generation.", 11)) return "generation.<key>";
    if (!strncmp(s, "arch.", 5)) return "arch.<key>";
    return f && f->scope == PROTO_GLOBAL ? "<key>" : s;
}

const daemon_refusable *daemon_refusable_find(const char *field)
{
    for (size_t i = 0; i < daemon_n_refusables; i++)
        if (!strcmp(daemon_refusables[i].field, field)) return &daemon_refusables[i];
    field = family(field);
    for (size_t i = 0; i < daemon_n_refusables; i++)
        if (!strcmp(daemon_refusables[i].field, field)) return &daemon_refusables[i];
    return NULL;
}
