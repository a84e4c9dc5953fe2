/* A CUDA runtime without a GPU, preloaded before torch: memory is the host's, kernels are counted and never run.
 *
 * What torch does around its kernels is real: dispatch, checks of devices and of determinism, generators,
 * allocations, copies, and the host's waiting for the device, which is counted. Numbers are whatever memory
 * holds, zeros mostly, and mean nothing.
 */
#include <driver_types.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef DEVICES
#define DEVICES 2
#endif
#define MEMORY ((size_t)8 << 30)
#define OK 0
#define BEFORE 64

typedef int status;

static long waits, launches, copies, replays, strays, held;
static __thread int current;

/* Stream that is recorded as a graph, and whether what must not be was asked of it. */
static void *recorded;
static int recording, spoiled, mode;
static unsigned long long recordings;
#define UNRECORDABLE 900
/* Whoever has asked for the relaxed mode may do elsewhere what the recorded stream must not. */
static int forbidden(void) { return recording && mode != cudaStreamCaptureModeRelaxed; }
static status waited(void) { waits++; return forbidden() ? (spoiled = 1, UNRECORDABLE) : OK; }

long standin_waits(void) { return waits; }
long standin_launches(void) { return launches; }
long standin_copies(void) { return copies; }
long standin_replays(void) { return replays; }
long standin_strays(void) { return strays; } /* kernels launched beside what is being recorded: no replay has them */
long standin_held(void) { return held; }     /* bytes of the GPU's memory */

/* Devices. */
status cudaGetDeviceCount(int *count) { *count = DEVICES; return OK; }
status cudaGetDevice(int *device) { *device = current; return OK; }
status cudaSetDevice(int device) { current = device; return OK; }
status cudaDeviceSynchronize(void) { return waited(); }
status cudaDriverGetVersion(int *version) { *version = 13020; return OK; }
status cudaRuntimeGetVersion(int *version) { *version = 13020; return OK; }
status cudaGetLastError(void) { return OK; }
status cudaPeekAtLastError(void) { return OK; }
status cudaDeviceCanAccessPeer(int *can, int device, int peer) { *can = 0; return OK; }
status cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -1; return OK; }

status cudaGetDeviceProperties(struct cudaDeviceProp *found, int device) {
    memset(found, 0, sizeof *found);
    strcpy(found->name, "Stand-in GPU");
    found->uuid.bytes[0] = (char)(device + 1);
    found->major = 9;
    found->totalGlobalMem = MEMORY;
    found->sharedMemPerBlock = 49152;
    found->sharedMemPerBlockOptin = 232448;
    found->sharedMemPerMultiprocessor = 233472;
    found->regsPerBlock = found->regsPerMultiprocessor = 65536;
    found->warpSize = 32;
    found->maxThreadsPerBlock = 1024;
    found->maxThreadsPerMultiProcessor = 2048;
    found->maxBlocksPerMultiProcessor = 32;
    found->multiProcessorCount = 132;
    found->l2CacheSize = 50 << 20;
    found->textureAlignment = 512;
    for (int i = 0; i < 3; i++) {
        found->maxThreadsDim[i] = i < 2 ? 1024 : 64;
        found->maxGridSize[i] = i ? 65535 : 2147483647;
    }
    return OK;
}

status cudaDeviceGetAttribute(int *value, int which, int device) {
    switch (which) {
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
    case cudaDevAttrMaxGridDimY: *value = 65535; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 232448; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    default: *value = 0;
    }
    return OK;
}

/* The driver's own functions, asked for by name: all of them do nothing. */
static int nothing(void) { return OK; }
status cudaGetDriverEntryPointByVersion(const char *name, void **found, unsigned version,
                                        unsigned long long flags, int *result) {
    *found = (void *)nothing;
    if (result) *result = 0;
    return OK;
}

/* Memory: the host's. Who takes any of the GPU's is noted, by process. */
static status take(void **place, size_t size) {
    static pid_t noted;
    const char *name = getenv("STANDIN_TAKERS");
    if (name && noted != getpid()) {
        FILE *file = fopen(name, "a");
        fprintf(file, "%d\n", noted = getpid());
        fclose(file);
    }
    char *whole = calloc(1, size + BEFORE); /* its size stands before it */
    if (!whole) return 2;
    *(size_t *)whole = size;
    *place = whole + BEFORE;
    __atomic_fetch_add(&held, (long)size, __ATOMIC_RELAXED);
    return OK;
}
static status give_back(void *place) {
    if (!place) return OK;
    char *whole = (char *)place - BEFORE;
    __atomic_fetch_sub(&held, (long)*(size_t *)whole, __ATOMIC_RELAXED);
    free(whole);
    return OK;
}
status cudaMalloc(void **place, size_t size) { return take(place, size); }
status cudaMallocHost(void **place, size_t size) { return take(place, size); }
status cudaHostAlloc(void **place, size_t size, unsigned flags) { return take(place, size); }
status cudaFree(void *place) { return give_back(place); }
status cudaFreeHost(void *place) { return give_back(place); }
status cudaMemGetInfo(size_t *left, size_t *total) { *left = *total = MEMORY; return OK; }
status cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *place) {
    memset(found, 0, sizeof *found);
    return OK;
}
status cudaMemcpy(void *to, const void *from, size_t size, int kind) {
    copies++;
    memmove(to, from, size);
    return waited();
}
status cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    copies++;
    if (forbidden() && kind != cudaMemcpyDeviceToDevice) return spoiled = 1, UNRECORDABLE; /* the host's may be gone */
    memmove(to, from, size);
    return OK;
}
status cudaMemset(void *to, int value, size_t size) { memset(to, value, size); return OK; }
status cudaMemsetAsync(void *to, int value, size_t size, void *stream) { memset(to, value, size); return OK; }
status cudaMemcpyToSymbol(const void *symbol, const void *from, size_t size, size_t at, int kind) { return OK; }

/* Streams and events. */
static status name_it(void **made) { *made = malloc(1); return OK; }
status cudaStreamCreate(void **made) { return name_it(made); }
status cudaStreamCreateWithFlags(void **made, unsigned flags) { return name_it(made); }
status cudaStreamCreateWithPriority(void **made, unsigned flags, int priority) { return name_it(made); }
status cudaStreamDestroy(void *stream) { return OK; }
status cudaStreamSynchronize(void *stream) { return waited(); }
status cudaStreamQuery(void *stream) { return OK; }
status cudaStreamWaitEvent(void *stream, void *event, unsigned flags) { return OK; }
status cudaStreamIsCapturing(void *stream, int *capturing) {
    *capturing = recording && stream == recorded;
    return OK;
}
status cudaStreamGetCaptureInfo(void *stream, int *capturing, unsigned long long *id, void *graph, void *nodes,
                                void *edges, size_t *count) {
    if (id) *id = recordings; /* torch tells recordings apart by it, also when it forgets an old one */
    if (count) *count = 0;
    return cudaStreamIsCapturing(stream, capturing);
}

/* Graphs: what is recorded is counted as it would be launched; a replay is one launch. */
status cudaStreamBeginCapture(void *stream, int kind) {
    recorded = stream, recording = 1, spoiled = 0, recordings++;
    return OK;
}
status cudaStreamEndCapture(void *stream, void **graph) {
    recording = 0;
    *graph = spoiled ? NULL : malloc(1);
    return spoiled ? UNRECORDABLE + 1 : OK;
}
status cudaGraphGetNodes(void *graph, void **nodes, size_t *count) { *count = 1; return OK; }
status cudaGraphInstantiate(void **made, void *graph, unsigned long long flags) { return name_it(made); }
status cudaGraphInstantiateWithFlags(void **made, void *graph, unsigned long long flags) { return name_it(made); }
status cudaGraphLaunch(void *made, void *stream) { launches++, replays++; return OK; }
status cudaGraphDestroy(void *graph) { return OK; }
status cudaGraphExecDestroy(void *made) { return OK; }
status cudaThreadExchangeStreamCaptureMode(int *wanted) {
    int before = mode;
    mode = *wanted, *wanted = before;
    return OK;
}
status cudaEventCreate(void **made) { return name_it(made); }
status cudaEventCreateWithFlags(void **made, unsigned flags) { return name_it(made); }
status cudaEventDestroy(void *event) { return OK; }
status cudaEventRecord(void *event, void *stream) { return OK; }
status cudaEventRecordWithFlags(void *event, void *stream, unsigned flags) { return OK; }
status cudaEventQuery(void *event) { return OK; }
status cudaEventSynchronize(void *event) { return waited(); }
status cudaEventElapsedTime(float *took, void *from, void *to) { *took = 1.0f; return OK; }

/* Kernels. */
struct size3 { unsigned x, y, z; };
static status launch(void *stream) {
    launches++;
    strays += recording && stream != recorded;
    return OK;
}
status cudaLaunchKernel(const void *kernel, struct size3 grid, struct size3 block, void **given, size_t shared,
                        void *stream) {
    return launch(stream);
}
status __cudaLaunchKernel(void *kernel, struct size3 grid, struct size3 block, void **given, size_t shared,
                          void *stream) {
    return launch(stream);
}
status cudaLaunchKernelExC(const cudaLaunchConfig_t *how, const void *kernel, void **given) {
    return launch(how->stream);
}
status cudaFuncSetAttribute() { return OK; }
status cudaFuncGetAttributes(struct cudaFuncAttributes *found, const void *kernel) {
    memset(found, 0, sizeof *found);
    found->maxThreadsPerBlock = 1024;
    found->ptxVersion = found->binaryVersion = 90;
    found->numRegs = 32;
    found->maxDynamicSharedSizeBytes = 49152;
    return OK;
}
status cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *kernel, int threads, size_t shared) {
    *blocks = 8;
    return OK;
}
status cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *kernel, int threads,
                                                              size_t shared, unsigned flags) {
    *blocks = 8;
    return OK;
}

/* cuBLAS: handles that are never looked at, and products that are launches. */
status cublasCreate_v2(void **made) { return name_it(made); }
status cublasDestroy_v2() { return OK; }
status cublasSetStream_v2() { return OK; }
status cublasSetWorkspace_v2() { return OK; }
status cublasSetSmCountTarget() { return OK; }
status cublasSetMathMode() { return OK; }
status cublasGetMathMode(void *handle, int *mode) { *mode = 0; return OK; }
status cublasSetPointerMode_v2() { return OK; }
status cublasGetPointerMode_v2(void *handle, int *mode) { *mode = 0; return OK; }
#define PRODUCT(name) status name() { launches++; return OK; }
PRODUCT(cublasSgemm_v2) PRODUCT(cublasDgemm_v2) PRODUCT(cublasGemmEx) PRODUCT(cublasSgemmEx)
PRODUCT(cublasSgemmStridedBatched) PRODUCT(cublasDgemmStridedBatched) PRODUCT(cublasGemmStridedBatchedEx)
PRODUCT(cublasSgemv_v2) PRODUCT(cublasDgemv_v2) PRODUCT(cublasSdot_v2) PRODUCT(cublasDdot_v2) PRODUCT(cublasDotEx)
PRODUCT(cublasLtMatmul)
status cublasLtCreate(void **made) { return name_it(made); }
status cublasLtMatmulDescCreate(void **made) { return name_it(made); }
status cublasLtMatmulDescDestroy() { return OK; }
status cublasLtMatmulDescSetAttribute() { return OK; }
status cublasLtMatmulPreferenceCreate(void **made) { return name_it(made); }
status cublasLtMatmulPreferenceDestroy() { return OK; }
status cublasLtMatmulPreferenceSetAttribute() { return OK; }
status cublasLtMatrixLayoutCreate(void **made) { return name_it(made); }
status cublasLtMatrixLayoutDestroy() { return OK; }
status cublasLtMatrixLayoutSetAttribute() { return OK; }
status cublasLtMatmulAlgoGetHeuristic(void *handle, void *what, void *a, void *b, void *c, void *d, void *wish,
                                      int wanted, void *results, int *count) {
    *count = 1;
    return OK;
}

/* The driver's library, which torch loads by its name when CUDA starts: this one has it. */
#define DRIVER(name) status name() { return OK; }
DRIVER(cuCtxGetCurrent) DRIVER(cuCtxSetCurrent) DRIVER(cuDeviceGet) DRIVER(cuDeviceGetAttribute)
DRIVER(cuDevicePrimaryCtxRetain) DRIVER(cuFuncGetAttribute)
DRIVER(cuFuncSetAttribute) DRIVER(cuFuncSetCacheConfig) DRIVER(cuGetErrorString)
DRIVER(cuLaunchCooperativeKernel) DRIVER(cuLaunchKernel) DRIVER(cuLinkAddData_v2) DRIVER(cuLinkComplete)
DRIVER(cuLinkCreate_v2) DRIVER(cuModuleGetFunction) DRIVER(cuModuleLoad) DRIVER(cuModuleLoadData)
DRIVER(cuModuleLoadDataEx) DRIVER(cuModuleUnload) DRIVER(cuOccupancyMaxActiveBlocksPerMultiprocessor)
DRIVER(cuPointerGetAttribute) DRIVER(cuTensorMapEncodeTiled)
/* Without a context torch says, asked whether a stream is captured, that it is not. */
status cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0, *active = 1; return OK; }


/* cuDNN: one engine for all convolutions, and batch normalisation; both without a workspace. */
static status no_bytes(size_t *size) { *size = 0; return OK; }
status cudnnCreate(void **made) { return name_it(made); }
status cudnnDestroy() { return OK; }
status cudnnSetStream() { return OK; }
status cudnnBackendCreateDescriptor(int kind, void **made) { return name_it(made); }
status cudnnBackendDestroyDescriptor() { return OK; }
status cudnnBackendInitialize() { return OK; }
status cudnnBackendFinalize() { return OK; }
status cudnnBackendSetAttribute() { return OK; }
status cudnnBackendExecute() { launches++; return OK; }
status cudnnBackendGetAttribute(void *of, int which, int type, long wanted, long *count, void *values) {
    static const int whole = 3; /* CUDNN_TYPE_INT64 */
    if (count) *count = 1;
    if (type == whole && values && wanted) *(long *)values = 0;
    return OK;
}
status cudnnCreateTensorDescriptor(void **made) { return name_it(made); }
status cudnnDestroyTensorDescriptor() { return OK; }
status cudnnSetTensorNdDescriptor() { return OK; }
status cudnnCreateActivationDescriptor(void **made) { return name_it(made); }
status cudnnDestroyActivationDescriptor() { return OK; }
status cudnnSetActivationDescriptor() { return OK; }
status cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(void *handle, int mode, int op, void *x, void *z,
                                                                void *y, void *scale, void *act, size_t *size) {
    return no_bytes(size);
}
status cudnnGetBatchNormalizationTrainingExReserveSpaceSize(void *handle, int mode, int op, void *act, void *x,
                                                            size_t *size) {
    return no_bytes(size);
}
status cudnnGetBatchNormalizationBackwardExWorkspaceSize(void *handle, int mode, int op, void *x, void *y, void *dy,
                                                         void *dz, void *dx, void *scale, void *act, size_t *size) {
    return no_bytes(size);
}
PRODUCT(cudnnBatchNormalizationForwardTrainingEx) PRODUCT(cudnnBatchNormalizationForwardInference)
PRODUCT(cudnnBatchNormalizationBackwardEx)
