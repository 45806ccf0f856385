# A PostgreSQL that pgbench uses, from nothing. Arguments: a directory for everything of its, port, MiB of shared buffers, pgbench's scale, its
# connections and transactions a second, a table of numbers for somebody else, and what makes it believe that nobody runs it, if that is needed.
set -e
home=$1 port=$2 buffers=$3 scale=$4 clients=$5 rate=$6 numbers=$7 nobody=$8
database=$home/database
mkdir -p "$database"
if [ -n "$nobody" ]; then
	echo "$nobody" | base64 -d >"$home/nobody.so"
	chown 65534 "$database"
	export LD_PRELOAD=$home/nobody.so
fi
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
export HOME=$home PGHOST=$home PGPORT=$port PGUSER=postgres PGDATABASE=postgres
initdb -D "$database" -U postgres --auth=trust -E UTF8 --locale=C --data-checksums
echo "host all all all trust" >>"$database/pg_hba.conf"
# Little is kept of the log of transactions: the files of a move are to be the database's.
postgres -D "$database" -p "$port" -k "$PGHOST" -c listen_addresses='*' -c shared_buffers="${buffers}MB" \
	-c wal_level=minimal -c max_wal_senders=0 -c min_wal_size=32MB -c max_wal_size=64MB &
until pg_isready -q; do sleep 0.1; done
pgbench -i -q -s "$scale"
psql -q -c "CREATE EXTENSION amcheck" -c "CREATE TABLE $numbers (number bigint PRIMARY KEY)"
# What cannot begin in time, because all of this stood still, is left out.
pgbench -n -c "$clients" -R "$rate" -L 100 -T 1000000 >/dev/null 2>&1 &
wait
