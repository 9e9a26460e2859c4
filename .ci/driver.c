// A stub of NVIDIA's driver for tests without a GPU: it reports no device, and success for every module that is loaded.
// cuDNN compiles the kernels of a plan for a described GPU itself and passes them to the driver.
// The functions are those that cuDNN 9.26 calls to build a plan.

enum { SUCCESS = 0, NO_DEVICE = 100 };

static int loaded(void **object) {
    static char nothing;
    *object = &nothing;
    return SUCCESS;
}

// Identifies this stub to the test.
void dj_flux2_stands_in(void) {}

int cuDriverGetVersion(int *version) {
    *version = 13000;
    return SUCCESS;
}

int cuLibraryLoadData(void **library) { return loaded(library); }
int cuLibraryLoadFromFile(void **library) { return loaded(library); }
int cuLibraryGetKernel(void **kernel) { return loaded(kernel); }
int cuKernelGetFunction(void **function) { return loaded(function); }
int cuKernelSetAttribute(void) { return SUCCESS; }
int cuLibraryUnload(void) { return SUCCESS; }

#define WITHOUT_GPU(name) \
    int name(void) { return NO_DEVICE; }
WITHOUT_GPU(cuInit)
WITHOUT_GPU(cuCtxGetCurrent)
WITHOUT_GPU(cuCtxGetLimit)
WITHOUT_GPU(cuCtxPopCurrent)
WITHOUT_GPU(cuCtxPushCurrent)
WITHOUT_GPU(cuDeviceGet)
WITHOUT_GPU(cuDeviceGetCount)
WITHOUT_GPU(cuGetErrorName)
WITHOUT_GPU(cuGetErrorString)
WITHOUT_GPU(cuKernelGetAttribute)
WITHOUT_GPU(cuLaunchCooperativeKernel)
WITHOUT_GPU(cuLaunchKernel)
WITHOUT_GPU(cuLaunchKernelEx)
WITHOUT_GPU(cuLinkAddData)
WITHOUT_GPU(cuLinkComplete)
WITHOUT_GPU(cuLinkCreate)
WITHOUT_GPU(cuLinkDestroy)
WITHOUT_GPU(cuOccupancyMaxPotentialClusterSize)
WITHOUT_GPU(cuStreamGetCtx)
