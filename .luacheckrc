-- The scripts of m3agiqa/queue/lua are run behind a line that names keys, and behind prelude.lua and letters.lua.
std = "lua51"
max_line_length = 120
read_globals = {
    "redis", "cjson", "KEYS", "ARGV",
    "OWED", "UNREAD", "OLDEST", "DEAD", "DEAD_ORDER", "DEAD_BYTES", "DEAD_DROPPED", "DEAD_CODES", "REQUEST", "RESULT",
    "IMAGE", "IMAGES",
    "DONE", "SCORES", "ERASED", "RATE", "COUNTS", "FAILING", "SHADOW", "SHADOW_SHARE", "WORKERS", "WORKER", "SCORE_QUEUE", "DELIVER_QUEUE",
    "LANE", "FRONT", "LANES", "USAGE",
    "LOST_AFTER_S", "now", "split", "name_of", "note", "count", "failed", "tries", "told_by", "word", "PRIORITIES", "clear", "use", "usage_today", "tenant_of", "score_list", "lane_of",
    "lanes_of", "is_laned", "measure", "refill", "leave", "wake", "owe", "oldest", "waits_longest", "remove", "fewer", "unbury", 
    "take_letter", "drop_letter", "keep_letter", "free", "publish", "try",
}
files["**/prelude.lua"] = {ignore = {"211"}}
files["**/letters.lua"] = {ignore = {"211"}, globals = {"now"}}
