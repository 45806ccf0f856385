SELECT max(filler), sum(r) FROM (SELECT filler, row_number() OVER (PARTITION BY bid ORDER BY abalance, aid DESC) r FROM pgbench_accounts) s;
\sleep 1500 ms
