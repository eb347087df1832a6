// Modules from PTX text, functions and their attributes.
#include "module.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string_view>

using namespace emu;

namespace {

// Log is what the caller's JIT options give to write messages into.
struct Log {
  char *room = nullptr;
  size_t size = 0;
  void **sizeCell = nullptr;

  void write(const std::string &message) {
    if (!room || !size) return;
    size_t n = std::min(size - 1, message.size());
    memcpy(room, message.data(), n);
    room[n] = 0;
    if (sizeCell) *sizeCell = reinterpret_cast<void *>(n);
  }
};

Log errorLog(unsigned n, const CUjit_option *options, void **values) {
  Log log;
  for (unsigned i = 0; i < n && options && values; i++) {
    if (options[i] == CU_JIT_ERROR_LOG_BUFFER) log.room = static_cast<char *>(values[i]);
    if (options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES) {
      log.size = reinterpret_cast<size_t>(values[i]) & 0xffffffff;
      log.sizeCell = &values[i];
    }
  }
  return log;
}

int isElf(const char *image) { return memcmp(image, "\177ELF", 4) == 0; }

Fault load(CUctx_st &c, const char *image, std::unique_ptr<CUmod_st> &out) {
  if (!*image) return {CUDA_ERROR_INVALID_IMAGE, "the image is empty"};
  if (isElf(image)) return {CUDA_ERROR_NO_BINARY_FOR_GPU, "a cubin: only PTX text can be emulated"};
  std::unique_ptr<Module> module;
  auto place = Module::placeIn(memory(), c.device->ordinal, &c);
  if (Fault f = Module::load(image, place, &module)) return f;
  int driver = engine().settings.driver, oldest = oldestDriver(module->version());
  if (driver < oldest)
    return {CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
            text("Unsupported .version %d.%d; it needs driver version %d, this is %d", module->version() / 10,
                 module->version() % 10, oldest, driver)};
  if (module->target() > c.device->capability)
    return {CUDA_ERROR_INVALID_PTX,
            text("SM version specified by .target sm_%d is higher than the device's, sm_%d", module->target(),
                 c.device->capability)};
  out = std::make_unique<CUmod_st>();
  out->context = &c;
  out->module = std::move(module);
  for (auto &[name, kernel] : out->module->kernels()) {
    if (kernel.staticShared > 48 << 10)
      return {CUDA_ERROR_INVALID_PTX, text("entry function '%s' uses too much shared data (0x%x bytes, 0xc000 max)",
                                           name.c_str(), kernel.staticShared)};
    auto f = std::make_unique<CUfunc_st>();
    f->module = out.get();
    f->kernel = &kernel;
    f->dynamicLimit = (48 << 10) - int(kernel.staticShared);
    out->functions[name] = std::move(f);
  }
  return {};
}

CUresult loadImage(const char *call, CUctx_st &c, CUmodule *module, const void *image, Log log) {
  if (!module || !image) return CUDA_ERROR_INVALID_VALUE;
  std::unique_ptr<CUmod_st> loaded;
  Fault fault = load(c, static_cast<const char *>(image), loaded);
  if (fault) {
    log.write("ptxas fatal   : " + fault.text);
    report(std::string(call) + ": " + fault.text);
    return CUresult(fault.code);
  }
  std::lock_guard<std::mutex> lock(engine().mutex);
  *module = loaded.release();
  engine().modules.insert(*module);
  for (auto &[name, f] : (*module)->functions) engine().functions.insert(f.get());
  return CUDA_SUCCESS;
}

bool knownModule(CUmodule module) {
  Engine &e = engine();
  std::lock_guard<std::mutex> lock(e.mutex);
  return module && e.modules.count(module);
}

// forget takes a module's handles away. Needs the engine's mutex.
void forget(CUmod_st *module) {
  engine().modules.erase(module);
  for (auto &[name, f] : module->functions) engine().functions.erase(f.get());
}

void freeModule(CUmod_st *module) {
  for (auto &[name, global] : module->module->globals())
    if (global.address) memory().free(global.address);
  delete module;
}

} // namespace

namespace emu {

void unloadModules(CUctx_st &context) {
  std::vector<CUmod_st *> mine;
  {
    std::lock_guard<std::mutex> lock(engine().mutex);
    for (CUmod_st *m : engine().modules)
      if (m->context == &context) mine.push_back(m);
    for (CUmod_st *m : mine) forget(m);
  }
  for (CUmod_st *m : mine) freeModule(m);
}

bool knownFunction(CUfunction function) {
  Engine &e = engine();
  std::lock_guard<std::mutex> lock(e.mutex);
  return function && e.functions.count(function);
}

int oldestDriver(int ptxVersion) {
  static const struct {
    int ptx, driver;
  } table[] = {{60, 9000},  {61, 9010},  {62, 9020},  {63, 10000}, {64, 10010}, {65, 10020}, {70, 11000}, {71, 11010},
               {72, 11020}, {73, 11030}, {74, 11040}, {75, 11050}, {76, 11060}, {77, 11070}, {78, 11080}, {80, 12000},
               {81, 12010}, {82, 12020}, {83, 12030}, {84, 12040}, {85, 12050}, {86, 12070}, {87, 12080}, {88, 12090}};
  for (auto &row : table)
    if (ptxVersion <= row.ptx) return row.driver;
  return 13000;
}

} // namespace emu

extern "C" {

CUresult cuModuleLoadData(CUmodule *module, const void *image) {
  return withContext(__func__, [&](CUctx_st &c) { return loadImage("cuModuleLoadData", c, module, image, {}); });
}

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int n, CUjit_option *options,
                            void **values) {
  return withContext(__func__, [&](CUctx_st &c) {
    return loadImage("cuModuleLoadDataEx", c, module, image, errorLog(n, options, values));
  });
}

CUresult cuModuleLoadFatBinary(CUmodule *, const void *) {
  return withContext(__func__, [&](CUctx_st &) {
    report("cuModuleLoadFatBinary: only PTX text can be emulated; use cuModuleLoadData");
    return CUDA_ERROR_NOT_SUPPORTED;
  });
}

CUresult cuModuleLoad(CUmodule *module, const char *path) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!module || !path) return CUDA_ERROR_INVALID_VALUE;
    FILE *file = fopen(path, "rb");
    if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
    std::string image;
    char part[65536];
    for (size_t n; (n = fread(part, 1, sizeof part, file)) > 0;) image.append(part, n);
    fclose(file);
    return loadImage("cuModuleLoad", c, module, image.c_str(), {});
  });
}

CUresult cuModuleUnload(CUmodule module) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!knownModule(module)) return CUDA_ERROR_INVALID_HANDLE;
    if (CUresult r = drained(c)) return r;
    {
      std::lock_guard<std::mutex> lock(engine().mutex);
      forget(module);
    }
    freeModule(module);
    return CUDA_SUCCESS;
  });
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  return withContext(__func__, [&](CUctx_st &) {
    if (!function || !name) return CUDA_ERROR_INVALID_VALUE;
    if (!knownModule(module)) return CUDA_ERROR_INVALID_HANDLE;
    auto at = module->functions.find(name);
    if (at == module->functions.end()) return CUDA_ERROR_NOT_FOUND;
    *function = at->second.get();
    return CUDA_SUCCESS;
  });
}

CUresult cuModuleGetGlobal(CUdeviceptr *address, size_t *bytes, CUmodule module, const char *name) {
  return withContext(__func__, [&](CUctx_st &) {
    if (!name || (!address && !bytes)) return CUDA_ERROR_INVALID_VALUE;
    if (!knownModule(module)) return CUDA_ERROR_INVALID_HANDLE;
    const Global *global = module->module->global(name);
    if (!global) return CUDA_ERROR_NOT_FOUND;
    if (address) *address = global->address;
    if (bytes) *bytes = global->size;
    return CUDA_SUCCESS;
  });
}

CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction f) {
  return withContext(__func__, [&](CUctx_st &) {
    if (!value) return CUDA_ERROR_INVALID_VALUE;
    if (!knownFunction(f)) return CUDA_ERROR_INVALID_HANDLE;
    const Kernel &k = *f->kernel;
    switch (int(attribute)) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = int(k.maxThreads); break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *value = int(k.staticShared); break;
    case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES: *value = 0; break;
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: *value = int(k.localBytes); break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = registersOf(k); break;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION: *value = f->module->module->target(); break;
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *value = f->module->context->device->capability; break;
    case CU_FUNC_ATTRIBUTE_CACHE_MODE_CA: *value = 0; break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = f->dynamicLimit; break;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT: *value = -1; break;
    default: return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
  });
}

CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute attribute, int value) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!knownFunction(f)) return CUDA_ERROR_INVALID_HANDLE;
    if (attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT)
      return value >= -1 && value <= 100 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_ERROR_INVALID_VALUE;
    int most = c.device->sharedPerBlock() - int(f->kernel->staticShared);
    if (value < 0 || value > most) {
      report(text("cuFuncSetAttribute: %s: %d bytes of dynamic shared memory; sm_%d has at most %d beside its own %u",
                  f->kernel->name.c_str(), value, c.device->capability, most, f->kernel->staticShared));
      return CUDA_ERROR_INVALID_VALUE;
    }
    f->dynamicLimit = std::max(value, 0);
    return CUDA_SUCCESS;
  });
}

CUresult cuFuncSetCacheConfig(CUfunction f, CUfunc_cache) {
  return withContext(__func__,
                     [&](CUctx_st &) { return knownFunction(f) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE; });
}

CUresult cuFuncSetSharedMemConfig(CUfunction f, CUsharedconfig) {
  return withContext(__func__,
                     [&](CUctx_st &) { return knownFunction(f) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE; });
}
}
