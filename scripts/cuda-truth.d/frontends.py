def run(place, emulator): return []
