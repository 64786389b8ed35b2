#!/bin/bash
# Tests the shipped freeze hooks against real servers: packaging/fsfreeze-hook.d/test.sh [SHELL...]
#
# Everything runs in namespaces of its own (processes, mounts, network), with a /run of its
# own and servers that run as "nobody": nothing here meets a server of this machine. What a
# frozen file system does to a server, stop it in the middle of everything, SIGSTOP does
# here; the copy of its files that is made then is the snapshot. Under a real freeze the
# hooks are tested by tests/vm/database.rs.
#
# A server that is not installed, and a machine that gives no namespaces, is said and left
# out. Takes a minute or two.

# shellcheck disable=SC2317,SC2046,SC2016  # functions for the writer; one process a word; eval
set -u
HERE=$(cd "$(dirname "$0")" && pwd)

skipped() { echo "SKIPPED freeze hooks, $*"; }

shells=("$@")
if [ $# -eq 0 ]; then
    for shell in dash bash 'busybox sh'; do
        # shellcheck disable=SC2086
        if $shell -c : 2>/dev/null; then shells+=("$shell"); else skipped "under $shell: it is not installed"; fi
    done
fi

postgresql_bin=$(find /usr/lib/postgresql/*/bin /usr/pgsql-*/bin -name initdb -printf '%h\n' 2>/dev/null | sort -V | tail -n 1)
PATH=$PATH:/usr/sbin:/sbin${postgresql_bin:+:$postgresql_bin}

# One run of this script inside for each database, all at once: they mostly wait.
if [ -z "${HOOK_TEST_WORK:-}" ]; then
    [ "$(id -u)" = 0 ] || { skipped "all: only root can test them"; exit 0; }
    namespaces=(unshare --mount --pid --net --fork --mount-proc --kill-child --propagation private)
    "${namespaces[@]}" true 2>/dev/null || { skipped "all: this machine gives no namespaces"; exit 0; }
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    running=()
    for database in ${HOOKS:-strangers mariadb postgresql redis}; do
        case $database in
        strangers) needs='setpriv perl' ;;
        mariadb) needs='mariadbd mariadb-install-db mariadb' ;;
        postgresql) needs='postgres initdb psql' ;;
        redis) needs='redis-check-rdb redis-cli' ;;
        esac
        for program in $needs; do
            command -v "$program" >/dev/null || { skipped "$database: $program is not installed"; continue 2; }
        done
        mkdir "$work/$database"
        # With the first process of the namespace, all others end.
        HOOK_TEST_WORK=$work/$database HOOK_TEST=$database timeout --foreground --kill-after=10 600 \
            "${namespaces[@]}" "$0" "${shells[@]}" >"$work/$database.out" 2>&1 &
        running+=("$!:$database")
    done
    status=0
    for job in "${running[@]}"; do
        wait "${job%%:*}" || { status=1; echo "FAILED freeze hook ${job#*:}"; }
        cat "$work/${job#*:}.out"
    done
    exit $status
fi

WORK=$HOOK_TEST_WORK
export HOME=$WORK/home LC_ALL=C
mkdir "$HOME"
chmod 755 "$WORK/.." "$WORK"
mount -t tmpfs -o mode=755 tmpfs /run || exit 1
{ ip link set lo up || busybox ip link set lo up; } 2>/dev/null

failures=0
# Whether this is the first of the shells: what depends on the servers alone is done once.
shell='' step='' first=yes

fail() {
    echo "FAILED ($shell: $step) $*"
    failures=$((failures + 1))
}

# Runs a hook, edited as its administrator would: hook NAME freeze|thaw [SED]
hook() {
    sed -e "s/^USERS=.*/USERS=nobody/;${3:-}" "$HERE/$1.sample" >"$WORK/hook" || exit 1
    # shellcheck disable=SC2086  # "busybox sh" is two words
    said=$(env -i HOME="$HOME" PATH=/usr/bin:/bin timeout -s KILL 60 $shell "$WORK/hook" "$2" </dev/null 2>&1)
}

# expect STATUS NAME freeze|thaw [SED]
expect() {
    local want=$1 begun=$SECONDS got
    shift
    hook "$@"
    got=$?
    [ "$got" = "$want" ] || fail "$1 $2: status $got, wanted $want: $said"
    [ $((SECONDS - begun)) -lt 30 ] || fail "$1 $2: took $((SECONDS - begun)) s"
}

says() { case $said in *$1*) ;; *) fail "said '$said', not '$1'" ;; esac; }
quiet() { [ -z "$said" ] || fail "said '$said'"; }

# In front of a program. No function: the process started must be the server itself.
as_nobody=(setpriv --reuid=nobody --regid="$(id -g nobody)" --clear-groups --)

# until SECONDS COMMAND...
until_ok() {
    local limit=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $limit ] || { fail "waited in vain: $*"; return 1; }
        sleep 0.1
    done
}

# Rows that their writer was told are committed: the last number in its file.
acknowledged() { tail -n 1 "$WORK/$1.rows" 2>/dev/null || echo 0; }

# Writes row after row: writer NAME COMMAND, which gets the number.
writer() {
    local name=$1 row=0
    shift
    : >"$WORK/$name.rows"
    while [ -e "$WORK/write" ]; do
        "$@" $((row + 1)) >/dev/null 2>&1 || { sleep 0.1; continue; }
        row=$((row + 1))
        echo $row >>"$WORK/$name.rows"
    done
}

goes_on() {
    local before
    before=$(acknowledged "$1")
    until_ok 30 eval "[ \$(acknowledged $1) -gt $((before + 3)) ]" || fail "the writer $1 does not go on"
}

stands_still() {
    local before
    sleep 0.3
    before=$(acknowledged "$1")
    sleep 0.7
    [ "$(acknowledged "$1")" = "$before" ] || fail "the writer $1 goes on: $before, $(acknowledged "$1")"
}

# snapshot DIRECTORY COPY PROCESS: all files at one moment.
snapshot() {
    rm -rf "$2"
    kill -STOP "$3"
    cp -a "$1" "$2"
    kill -CONT "$3"
}

nothing_left() {
    [ ! -e "/run/qemu-ga-$1" ] || fail "left behind: $(ls -R "/run/qemu-ga-$1")"
}

# ---- MariaDB ---------------------------------------------------------------------

mariadb_start() { # NAME SOCKET: $process
    # Commits stay in memory for a second: the hook must bring them to the disk.
    "${as_nobody[@]}" mariadbd --no-defaults --datadir="$WORK/$1" --socket="$2" --pid-file="$WORK/$1/pid" --skip-networking \
        --innodb-flush-log-at-trx-commit=0 --innodb-buffer-pool-size=16M --log-bin=log \
        >>"$WORK/$1.log" 2>&1 &
    process=$!
    until_ok 60 mariadb -S "$2" -e 'SELECT 1'
}

mariadb_test() {
    local server server2 rows sed
    step='MariaDB: no server'
    expect 0 mariadb freeze
    quiet
    expect 0 mariadb thaw
    quiet

    install -d -o nobody -m 755 /run/mysqld
    if [ ! -d "$WORK/mariadb" ]; then
        install -d -o nobody "$WORK/mariadb"
        "${as_nobody[@]}" mariadb-install-db --no-defaults --auth-root-authentication-method=normal --skip-test-db \
            --innodb-log-file-size=8M --datadir="$WORK/mariadb" >"$WORK/mariadb-install.log" 2>&1 ||
            { cat "$WORK/mariadb-install.log"; fail "mariadb-install-db"; return; }
    fi
    mariadb_start mariadb /run/mysqld/mysqld.sock
    server=$process
    mariadb -e 'DROP DATABASE IF EXISTS t; CREATE DATABASE t; CREATE TABLE t.i (n INT PRIMARY KEY) ENGINE=InnoDB;
        CREATE TABLE t.m (n INT PRIMARY KEY) ENGINE=MyISAM; CREATE TABLE t.a (n INT PRIMARY KEY) ENGINE=Aria;'
    rm -f "$WORK"/*.rows
    touch "$WORK/write"
    mariadb_insert() { mariadb -e "INSERT INTO t.$1 VALUES ($2)"; }
    for table in i m a; do writer $table mariadb_insert $table & done

    # The second time with the lock of older versions, and of MySQL.
    for sed in '' ${first:+'s/-lt 1004/-lt 9999/'}; do
        step="MariaDB: snapshot${sed:+ with the global read lock}"
        for table in i m a; do goes_on $table; done
        expect 0 mariadb freeze "$sed"
        quiet
        # At once: what the server leaves in memory, it writes within a second.
        rows="$(acknowledged i) $(acknowledged m) $(acknowledged a)"
        snapshot "$WORK/mariadb" "$WORK/snapshot" "$server"
        for table in i m a; do stands_still $table; done
        mariadb -e 'SELECT COUNT(*) FROM t.i' >/dev/null || fail "reading does not work"
        expect 0 mariadb thaw
        quiet
        nothing_left mariadb
        for table in i m a; do goes_on $table; done
        # shellcheck disable=SC2086  # three numbers
        [ -z "$first" ] || mariadb_check $rows
    done

    # The hook need not wait for InnoDB any more.
    mariadb -e 'SET GLOBAL innodb_flush_log_at_trx_commit = 2'
    step='MariaDB: freeze twice, thaw twice'
    expect 0 mariadb freeze
    expect 0 mariadb freeze
    stands_still i
    [ "$(pgrep -cx mariadb)" -le 4 ] || fail "$(pgrep -cx mariadb) clients"
    expect 0 mariadb thaw
    goes_on i
    expect 0 mariadb thaw
    quiet

    step='MariaDB: nobody thaws'
    expect 0 mariadb freeze 's/^HOLD=.*/HOLD=3/'
    stands_still i
    goes_on i
    expect 0 mariadb thaw
    says 'did not last'

    step='MariaDB: nobody thaws, and all of the hook hangs'
    expect 0 mariadb freeze 's/^HOLD=.*/HOLD=3/'
    kill -STOP $(mariadb_holders)
    stands_still i
    goes_on i
    expect 0 mariadb thaw
    says 'did not last'
    until_ok 5 eval '[ -z "$(mariadb_holders)" ]'
    nothing_left mariadb

    step='MariaDB: everything of the hook is killed'
    expect 0 mariadb freeze
    stands_still i
    kill -KILL $(mariadb_holders)
    goes_on i
    expect 0 mariadb thaw

    step='MariaDB: the hook is killed while it waits'
    mariadb -e "LOCK TABLES t.m WRITE; SELECT SLEEP(60)" >/dev/null 2>&1 &
    until_ok 30 mariadb_sleeps
    sed -e "" "$HERE/mariadb.sample" >"$WORK/hook"
    # shellcheck disable=SC2086
    { timeout -s KILL 2 $shell "$WORK/hook" freeze; } </dev/null >/dev/null 2>&1
    expect 0 mariadb thaw
    until_ok 5 eval '[ -z "$(mariadb_holders)" ]'
    nothing_left mariadb

    step='MariaDB: a statement that does not end'
    expect 1 mariadb freeze 's/^LOCK_WAIT=.*/LOCK_WAIT=2/'
    says 'Lock wait timeout exceeded'
    nothing_left mariadb
    goes_on i
    expect 1 mariadb freeze 's/^LIMIT=.*/LIMIT=2/'
    says 'within the time'
    nothing_left mariadb
    mariadb -e "KILL $(mariadb_sleeps)"
    goes_on i
    goes_on m

    step='MariaDB: wrong password'
    printf '[client]\nuser=root\npassword=wrong\nsocket=/run/mysqld/mysqld.sock\n' >"$WORK/options"
    mariadb -e "CREATE USER IF NOT EXISTS nobody2@localhost IDENTIFIED BY 'x'"
    sed -i 's/user=root/user=nobody2/' "$WORK/options"
    expect 1 mariadb freeze "s,^OPTION_FILES=.*,OPTION_FILES='$WORK/options',"
    says 'Access denied'
    sed -i 's/password=wrong/password=x/' "$WORK/options"
    expect 1 mariadb freeze "s,^OPTION_FILES=.*,OPTION_FILES='$WORK/options',"
    says 'RELOAD'
    nothing_left mariadb
    goes_on i

    step='MariaDB: a second server'
    rm -rf "$WORK/mariadb2"
    cp -a "$WORK/snapshot" "$WORK/mariadb2"
    server2=$server
    mariadb_start mariadb2 /run/mysqld/second.sock
    expect 1 mariadb freeze
    says 'servers that run: 2, of which locked: 1'
    printf '[client]\nuser=root\nsocket=/run/mysqld/mysqld.sock\n' >"$WORK/options"
    printf '[client]\nuser=root\nsocket=/run/mysqld/second.sock\n' >"$WORK/options2"
    sed="s,^OPTION_FILES=.*,OPTION_FILES='$WORK/options $WORK/options2',"
    expect 0 mariadb freeze "$sed"
    stands_still i
    ! timeout 1 mariadb -S /run/mysqld/second.sock -e 'INSERT INTO t.i VALUES (-1)' || fail "the second is not locked"
    expect 0 mariadb thaw
    goes_on i
    kill "$process"
    wait "$process"
    expect 0 mariadb freeze "$sed"
    quiet
    expect 0 mariadb thaw

    step='MariaDB: the server hangs'
    kill -STOP "$server2"
    expect 1 mariadb freeze 's/^LIMIT=.*/LIMIT=2/'
    says 'within the time'
    kill -CONT "$server2"
    nothing_left mariadb
    goes_on i

    step='MariaDB: the server is killed before the thaw'
    expect 0 mariadb freeze
    kill -KILL "$server2"
    wait "$server2" 2>/dev/null
    expect 0 mariadb thaw
    says 'did not last'
    nothing_left mariadb
    rm -f "$WORK/write"
    expect 0 mariadb freeze
    expect 0 mariadb thaw
}

# shellcheck disable=SC2012  # the names are numbers
mariadb_holders() { ls -l /proc/[0-9]*/fd/0 2>/dev/null | sed -n 's,^.* /proc/\([0-9]*\)/fd/0 -> /run/qemu-ga-mariadb.*,\1,p'; }
mariadb_sleeps() { mariadb -sNe "SELECT ID FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT SLEEP%'" | grep .; }

# A server on the snapshot finds nothing to mend but what InnoDB does by itself.
mariadb_check() { # ROWS-OF-i m a
    local found
    rm -f "$WORK/snapshot.log" "$WORK/snapshot/pid"
    mariadb_start snapshot "$WORK/snapshot/socket"
    for table in i m a; do
        found=$(mariadb -S "$WORK/snapshot/socket" -sNe "SELECT COUNT(*) FROM t.$table WHERE n <= $1")
        [ "$found" = "$1" ] || fail "$found of $1 rows of table $table are in the snapshot"
        found=$(mariadb -S "$WORK/snapshot/socket" -sNe "CHECK TABLE t.$table")
        case $found in *status*OK) ;; *) fail "table $table: $found" ;; esac
        shift
    done
    kill "$process"
    wait "$process"
    if grep -E 'ERROR|orrupt|marked as crashed' "$WORK/snapshot.log"; then fail "the server on the snapshot complains"; fi
}

# ---- PostgreSQL ------------------------------------------------------------------

postgresql_start() { # NAME PORT: $process
    (cd / && exec "${as_nobody[@]}" postgres -D "$WORK/$1" \
        -p "$2" -c listen_addresses= -c unix_socket_directories="${3:-/run/postgresql}" -c shared_buffers=16MB) \
        >>"$WORK/$1.log" 2>&1 &
    process=$!
    until_ok 60 psql_at "$2" 'SELECT 1'
}

psql_at() { (cd / && "${as_nobody[@]}" psql -XqAtw -h /run/postgresql -p "$1" -d postgres -c "$2"); }

postgresql_test() {
    local server rows begun lsn
    step='PostgreSQL: no server'
    expect 0 postgresql freeze
    quiet
    expect 0 postgresql thaw
    quiet

    install -d -o nobody -m 755 /run/postgresql
    if [ ! -d "$WORK/postgresql" ]; then
        install -d -o nobody -m 700 "$WORK/postgresql"
        (cd / && "${as_nobody[@]}" initdb -A peer -D "$WORK/postgresql") >"$WORK/initdb.log" 2>&1 ||
            { cat "$WORK/initdb.log"; fail "initdb"; return; }
    fi
    postgresql_start postgresql 5432
    server=$process
    psql_at 5432 'DROP TABLE IF EXISTS t' 2>/dev/null
    psql_at 5432 'CREATE TABLE t (n int PRIMARY KEY)'
    rm -f "$WORK"/*.rows
    touch "$WORK/write"
    postgresql_insert() { psql_at 5432 "INSERT INTO t VALUES ($1)"; }
    writer p postgresql_insert &

    step='PostgreSQL: snapshot'
    goes_on p
    lsn=$(psql_at 5432 'SELECT pg_current_wal_lsn()')
    expect 0 postgresql freeze
    quiet
    # Only the frozen file system stops the writers.
    goes_on p
    pkill -STOP -x postgres
    rows=$(acknowledged p)
    rm -rf "$WORK/snapshot"
    cp -a "$WORK/postgresql" "$WORK/snapshot"
    pkill -CONT -x postgres
    expect 0 postgresql thaw
    quiet
    goes_on p
    rm "$WORK/snapshot/postmaster.pid"
    : >"$WORK/snapshot.log"
    postgresql_start snapshot 5433
    [ "$(psql_at 5433 "SELECT count(*) FROM t WHERE n <= $rows")" = "$rows" ] || fail "of $rows rows some are missing"
    if grep -E 'ERROR|PANIC|FATAL|invalid|corrupt' "$WORK/snapshot.log" | grep -v -e 'starting up' -e 'not yet accepting' -e 'invalid record length'; then
        fail "the server on the snapshot complains"
    fi
    redo=$(sed -n 's/.*redo starts at //p' "$WORK/snapshot.log")
    [ "$(psql_at 5433 "SELECT '$redo'::pg_lsn >= '$lsn'")" = t ] || fail "no checkpoint: redo at $redo, freeze at $lsn"

    step='PostgreSQL: two servers'
    for port in 5432 5433; do checkpoint_of $port >"$WORK/before.$port"; done
    sleep 1.1
    expect 0 postgresql freeze
    quiet
    for port in 5432 5433; do
        [ "$(checkpoint_of $port)" != "$(cat "$WORK/before.$port")" ] || fail "no checkpoint of the server at $port"
    done
    kill -INT "$process"
    wait "$process"

    step='PostgreSQL: a standby'
    touch "$WORK/snapshot/standby.signal"
    echo "restore_command = 'false'" >>"$WORK/snapshot/postgresql.auto.conf"
    postgresql_start snapshot 5433
    [ "$(psql_at 5433 'SELECT pg_is_in_recovery()')" = t ] || fail "not a standby"
    expect 0 postgresql freeze
    quiet
    kill -INT "$process"
    wait "$process"

    step='PostgreSQL: fsync is off'
    psql_at 5432 'ALTER SYSTEM SET fsync = off'
    psql_at 5432 'SELECT pg_reload_conf()' >/dev/null
    until_ok 30 eval '[ "$(psql_at 5432 "SHOW fsync")" = off ]'
    expect 0 postgresql freeze
    says 'fsync is off'
    psql_at 5432 'ALTER SYSTEM RESET fsync'
    psql_at 5432 'SELECT pg_reload_conf()' >/dev/null

    step='PostgreSQL: no log-in'
    cp -p "$WORK/postgresql/pg_hba.conf" "$WORK/pg_hba.conf"
    echo 'local all all scram-sha-256' >"$WORK/postgresql/pg_hba.conf"
    kill -HUP "$server"
    until_ok 30 eval '! psql_at 5432 "SELECT 1"'
    expect 1 postgresql freeze
    says 'no password supplied'
    cp -p "$WORK/pg_hba.conf" "$WORK/postgresql/pg_hba.conf"
    kill -HUP "$server"
    until_ok 30 psql_at 5432 'SELECT 1'

    step='PostgreSQL: the server hangs'
    pkill -STOP -x postgres
    expect 0 postgresql freeze 's/^LIMIT=.*/LIMIT=5/'
    says 'no checkpoint within the time'
    pkill -CONT -x postgres
    goes_on p

    step='PostgreSQL: the server is killed before the thaw'
    expect 0 postgresql freeze
    quiet
    { pkill -KILL -x postgres; wait "$server"; } 2>/dev/null
    rm -f "$WORK/write"
    expect 0 postgresql thaw
    quiet
    expect 0 postgresql freeze
    quiet
}

checkpoint_of() { psql_at "$1" 'SELECT checkpoint_lsn, checkpoint_time FROM pg_control_checkpoint()'; }

# ---- Redis -------------------------------------------------------------------------

redis_start() { # NAME PORT OPTION...: $process
    local name=$1 port=$2
    shift 2
    install -d -o nobody "$WORK/$name"
    # The program is that of redis-check-rdb, which does as its name tells.
    (cd "$WORK/$name" && exec "${as_nobody[@]}" "$WORK/redis-server" --port "$port" --save '' "$@") >>"$WORK/$name.log" 2>&1 &
    process=$!
    until_ok 30 eval "redis-cli -p $port ping | grep -E 'PONG|NOAUTH'"
    # Its copy may take a moment to load.
    until_ok 30 eval "redis-cli -p $port info persistence | grep -E 'loading:0|NOAUTH'"
}

redis_snapshot_has() { # DIRECTORY ROWS OPTION...
    local rows=$2 found
    rm -rf "$WORK/redis-copy"
    cp -a "$1" "$WORK/redis-copy"
    shift 2
    rm -f "$WORK/redis-copy.log"
    redis_start redis-copy 6400 "$@"
    found=$(redis-cli -p 6400 llen rows)
    [ "$found" -ge "$rows" ] || fail "$found of $rows rows are in the snapshot"
    kill "$process"
    wait "$process"
    if grep -iE 'error|corrupt|truncat|bad file|short read' "$WORK/redis-copy.log"; then fail "the server on the snapshot complains"; fi
}

redis_test() {
    local server other rows auth
    auth="s,^AUTH=.*,AUTH=$WORK/redis-auth,;s,^INSTANCES=.*,INSTANCES='127.0.0.1:6379 127.0.0.1:6380',"
    rm -rf "$WORK"/redis-[dao]* "$WORK"/redis-auth*
    ln -sf "$(command -v redis-server || command -v redis-check-rdb)" "$WORK/redis-server"
    step='Redis: no server'
    expect 0 redis freeze
    quiet
    expect 0 redis thaw
    quiet

    step='Redis: append-only'
    redis_start redis-aof 6379 --appendonly yes --appendfsync everysec
    server=$process
    rm -f "$WORK"/*.rows
    touch "$WORK/write"
    redis_push() { [ "$(redis-cli -p 6379 rpush rows "$1")" -ge 1 ]; }
    writer r redis_push &
    goes_on r
    expect 0 redis freeze
    quiet
    rows=$(acknowledged r)
    snapshot "$WORK/redis-aof" "$WORK/snapshot" "$server"
    stands_still r
    [ "$(redis-cli -p 6379 llen rows)" -ge "$rows" ] || fail "reading does not work"
    expect 0 redis thaw
    quiet
    nothing_left redis
    goes_on r
    redis_snapshot_has "$WORK/snapshot" "$rows" --appendonly yes

    step='Redis: freeze twice, thaw twice'
    expect 0 redis freeze
    expect 0 redis freeze
    stands_still r
    expect 0 redis thaw
    goes_on r
    expect 0 redis thaw
    quiet

    step='Redis: nobody thaws'
    expect 0 redis freeze 's/^HOLD=.*/HOLD=2/'
    stands_still r
    goes_on r
    expect 0 redis thaw
    quiet

    step='Redis: a rewrite is under way'
    redis-cli -p 6379 config set rdb-key-save-delay 2000 >/dev/null
    redis-cli -p 6379 debug jmap >/dev/null 2>&1
    seq 1 1500 | sed 's/.*/set k& &/' | redis-cli -p 6379 >/dev/null
    redis-cli -p 6379 bgrewriteaof >/dev/null
    expect 0 redis freeze
    quiet
    redis-cli -p 6379 info persistence | grep -q 'aof_rewrite_in_progress:0' || fail "the rewrite was not waited for"
    expect 0 redis thaw
    redis-cli -p 6379 bgrewriteaof >/dev/null
    expect 1 redis freeze 's/^LIMIT=.*/LIMIT=11/'
    says 'being rewritten'
    goes_on r
    redis-cli -p 6379 config set rdb-key-save-delay 0 >/dev/null

    step='Redis: dumps, several servers, sockets, passwords'
    redis_start redis-dump 6380 --save '3600 1' --requirepass secret --bind 127.0.0.1
    other=$process
    expect 1 redis freeze "$auth"
    says NOAUTH
    goes_on r
    echo secret >"$WORK/redis-auth.6380"
    # One that is found by itself gets none.
    expect 1 redis freeze "${auth%%;*}"
    says NOAUTH
    nothing_left redis
    redis-cli -p 6380 -a secret --no-auth-warning rpush rows 1 2 3 >/dev/null
    expect 0 redis freeze "$auth"
    quiet
    stands_still r
    cp -a "$WORK/redis-dump" "$WORK/snapshot-dump"
    # This one does not wait.
    redis-cli -p 6380 -a secret --no-auth-warning rpush rows 4 >/dev/null
    expect 0 redis thaw "$auth"
    quiet
    goes_on r
    redis_snapshot_has "$WORK/snapshot-dump" 3
    rm -rf "$WORK/snapshot-dump"
    echo wrong >"$WORK/redis-auth.6380"
    expect 1 redis freeze "$auth"
    nothing_left redis
    echo secret >"$WORK/redis-auth.6380"

    step='Redis: a dump that fails'
    chown root "$WORK/redis-dump"
    expect 1 redis freeze "$auth"
    says 'BGSAVE failed'
    chown nobody "$WORK/redis-dump"

    step='Redis: a dump that takes long'
    redis-cli -p 6380 -a secret --no-auth-warning config set rdb-key-save-delay 30000000 >/dev/null
    redis-cli -p 6380 -a secret --no-auth-warning set k 1 >/dev/null
    expect 1 redis freeze "$auth;s/^LIMIT=.*/LIMIT=3/"
    says 'no dump within 3 seconds'
    goes_on r
    kill -KILL "$other"
    wait "$other" 2>/dev/null

    step='Redis: a server on a socket that keeps nothing'
    redis_start redis-other 6381 --appendonly no
    redis-cli -p 6381 set k 1 >/dev/null
    expect 0 redis freeze
    [ ! -e "$WORK/redis-other/dump.rdb" ] || fail "a dump that nobody wants"
    expect 0 redis thaw
    kill "$process"
    wait "$process"
    (cd "$WORK/redis-other" && exec "${as_nobody[@]}" "$WORK/redis-server" --port 0 --unixsocket "$WORK/redis-other/s" --save '' --appendonly yes >/dev/null) &
    other=$!
    until_ok 30 redis-cli -s "$WORK/redis-other/s" ping
    expect 0 redis freeze
    quiet
    grep -qx "$WORK/redis-other/s" /run/qemu-ga-redis || fail "not held: the server on a socket"
    expect 0 redis thaw
    kill "$other"
    wait "$other"
    expect 0 redis freeze "s,^INSTANCES=.*,INSTANCES='127.0.0.1:6379 $WORK/redis-other/s',"
    quiet
    stands_still r
    expect 0 redis thaw

    step='Redis: the server hangs'
    kill -STOP "$server"
    expect 1 redis freeze 's/KILL 5/KILL 2/'
    says 'does not answer'
    kill -CONT "$server"
    goes_on r

    step='Redis: the server is killed before the thaw'
    expect 0 redis freeze
    { kill -KILL "$server"; wait "$server"; } 2>/dev/null
    rm -f "$WORK/write"
    expect 0 redis thaw
    nothing_left redis
    expect 0 redis freeze
    quiet
}

# ---- Strangers -----------------------------------------------------------------------

# What a hostile user of this machine can do to the hooks, with no server that is ours: a
# process of each name that a hook looks for, from a program that everybody may write to,
# in a directory of root's and in one of its own, with titles, files and open files of its
# choice. Each client program is a spy; beside the processes lie others of the same names.

# In front of a program: the hostile user.
as_stranger=(setpriv --reuid=daemon --regid="$(id -g daemon)" --clear-groups --)
names='postgres postmaster mysqld mariadbd redis-server valkey-server'

# stranger DIRECTORY TITLE PROGRAM [ARGUMENT...]: runs in DIRECTORY, which names it as its server.
stranger() {
    (
        cd "$1" || exit 1
        title=$2 program=$3
        shift 3
        # shellcheck disable=SC2016  # the number is that of the shell that becomes the program
        exec "${as_stranger[@]}" bash -c 'title=$1 program=$2 && shift 2
            case $program in */postgres | */postmaster) ;; *) false ;; esac && [ ! -p postmaster.pid ] && printf "%s\n%s\n0\n5432\n/tmp\n\n\nready\n" $$ "$PWD" >postmaster.pid
            exec -a "$title" "$program" "$@"' - "$title" "$program" "$@"
    ) </dev/null &
    strangers+=($!)
}

strangers_test() {
    local hook name victim bin=$WORK/clients home strangers=()
    mount -t tmpfs -o mode=1777 tmpfs /tmp || { fail "no /tmp of its own"; return; }
    install -d -m 755 "$bin"
    install -d -o daemon -m 755 /tmp/home /tmp/bin /tmp/fifo
    # What ran, as whom, with which password.
    for name in psql mariadb mysql redis-cli valkey-cli; do
        printf '#!/bin/sh\ncase $* in --defaults-file=*--help) sed -n "s/^\\([a-z]*\\)=/\\1 /p" "${1#*=}" && exit ;; esac\necho "%s of $0, user $(id -u), password ${REDISCLI_AUTH-none}: $*" >>%s/spied\n' $name "$WORK" \
            >"$bin/$name"
        cp "$bin/$name" /tmp/bin
        chmod 755 "$bin/$name" "/tmp/bin/$name"
    done
    for name in $names; do cp "$(command -v sleep)" "/tmp/bin/$name"; done
    echo PASSWORD >"$WORK/redis-auth"
    "${as_stranger[@]}" mkfifo -m 666 /tmp/fifo/postmaster.pid

    # A process of root, and one that pretends that this is what holds the lock of MariaDB.
    sleep 600 &
    victim=$!
    home="/tmp/home/x /proc/$victim/fd/0 -> /run/qemu-ga-mariadb/1"
    "${as_stranger[@]}" mkdir -p "$home"
    "${as_stranger[@]}" sh -c ': >"$1/in" && exec sleep 600 <"$1/in"' - "$home" &
    strangers+=($!)
    for name in $names; do
        for directory in /tmp /tmp/home /tmp/fifo; do
            stranger $directory "$name attacker.example:7777" "/tmp/bin/$name" 600
            stranger $directory "$name 127.0.0.1:7777" "/tmp/bin/$name" 600
            stranger $directory "$name unixsocket:/tmp/home/socket" "/tmp/bin/$name" 600
            stranger $directory "$name" "/tmp/bin/$name" 600
        done
        until_ok 10 pgrep -x -u daemon "$name"
    done

    # A user has a setuid program run under any name. What it is like in the end: root's, with
    # a title of the user's choice.
    for name in $names; do
        ln -s "$(command -v sleep)" "$WORK/$name"
        (exec -a "$name attacker.example:7777" "$WORK/$name" 600) &
        strangers+=($!)
    done

    # Where servers listen that do not run just now.
    "${as_stranger[@]}" perl -MIO::Socket -e '
        $^F = 99;
        $port = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 7777, Listen => 1) or die;
        $path = IO::Socket::UNIX->new(Local => "/tmp/home/socket", Listen => 1) or die;
        exec "sleep", "600"' &
    strangers+=($!)
    until_ok 10 test -S /tmp/home/socket

    for hook in "$HERE"/*.sample; do
        hook=${hook##*/}
        hook=${hook%.sample}
        step="strangers: $hook"
        : >"$WORK/spied"
        chmod 666 "$WORK/spied"
        # As after a freeze that nobody thawed.
        mkdir -p /run/qemu-ga-mariadb/1
        [ -p /run/qemu-ga-mariadb/1/in ] || mkfifo /run/qemu-ga-mariadb/1/in
        : >/run/qemu-ga-mariadb/1/out
        edit="s,^PATH=,PATH=$bin:/usr/bin:/bin:,;s,^AUTH=.*,AUTH=$WORK/redis-auth,;s/for _ in 1 2 .*; do/for _ in 1; do/"
        expect 0 "$hook" thaw "$edit"
        expect 0 "$hook" freeze "$edit"
        case $hook in
        skeleton) quiet ;;
        *) says 'passed by' ;;
        esac
        [ "$(printf '%s\n' "$said" | wc -l)" -le 5 ] || fail "too much about strangers: $said"
        expect 0 "$hook" thaw "$edit"
        [ ! -s "$WORK/spied" ] || fail "ran $(cat "$WORK/spied")"
        # A stranger that has the place of a server that was named.
        printf '[client]\nsocket=/tmp/home/socket\n' >"$WORK/socket.cnf"
        printf '[client]\nhost=127.0.0.1\nport=7777\n' >"$WORK/port.cnf"
        named="s,^INSTANCES=.*,INSTANCES='localhost:7777 127.0.0.1:7777 /tmp/home/socket',"
        named="$named;s,^OPTION_FILES=.*,OPTION_FILES='$WORK/socket.cnf $WORK/port.cnf',"
        expect 0 "$hook" freeze "$edit;$named"
        expect 0 "$hook" thaw "$edit;$named"
        [ ! -s "$WORK/spied" ] || fail "ran $(cat "$WORK/spied")"
        # A server that was taken over: its user is not the way to root, nor to the password.
        hook "$hook" freeze "$edit;s/^USERS=.*/USERS=daemon/"
        hook "$hook" thaw "$edit"
        grep -e ' of /tmp/bin' -e PASSWORD -e '^psql .* user 0' -e attacker "$WORK/spied" && fail "that was run"
        for name in $victim "${strangers[@]}"; do
            kill -0 "$name" 2>/dev/null || fail "process $name was killed"
        done
        rm -rf /run/qemu-ga-*
    done

    kill $victim "${strangers[@]}" 2>/dev/null
    wait $victim "${strangers[@]}" 2>/dev/null
    umount -l /tmp
}

# ---- all -----------------------------------------------------------------------------

for shell in "${shells[@]}"; do
    begun=$SECONDS
    "${HOOK_TEST}_test"
    rm -f "$WORK/write"
    wait
    echo "freeze hook $HOOK_TEST under $shell: $((SECONDS - begun)) s"
    first=
done
[ "$failures" -eq 0 ] || { echo "freeze hook $HOOK_TEST: $failures failures"; exit 1; }
