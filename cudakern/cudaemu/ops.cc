// The tables and handlers of one build (EMU_BUILD), gathered.
#include "decode.h"

#define EMU_STRING_(x) #x
#define EMU_STRING(x) EMU_STRING_(x)

namespace emu {
namespace EMU_BUILD {

Table arithTable();
Table fmasTable();
Table logicTable();
Table compareTable();
Table convertTable();
Table mathTable();
Table memoryTable();
Table atomicTable();
Table syncTable();
Table warpTable();
Handler loadHandler(Space, int bytes, int width, int count);
Handler storeHandler(Space, int bytes, int width, int count);
Handler loadParamHandler();
Handler fmaHandler();
Handler fmaRunHandler();
Handler productHandler();

Ops ops() {
  Ops o;
  o.name = EMU_STRING(EMU_BUILD);
  o.tables = {arithTable(), fmasTable(), logicTable(), compareTable(), convertTable(), mathTable(), memoryTable(),
      atomicTable(), syncTable(), warpTable()};
  o.load = loadHandler;
  o.store = storeHandler;
  o.loadParam = loadParamHandler();
  o.fma = fmaHandler();
  o.fmaRun = fmaRunHandler();
  o.product = productHandler();
  return o;
}

} // namespace EMU_BUILD
} // namespace emu
