# redis.py PORT KEYS RATE: fills a redis, then SETs of random keys at a steady rate.
import socket,random,sys,time
port,keys,rate=int(sys.argv[1]),int(sys.argv[2]),int(sys.argv[3])
s=socket.create_connection(('127.0.0.1',port)); f=s.makefile('rb')
v=random.randbytes(1000)
def put(k): return b'*3\r\n$3\r\nSET\r\n$10\r\nkey:%06d\r\n$1000\r\n%s\r\n'%(k,v)
def send(ks):
    s.sendall(b''.join(map(put,ks)))
    for _ in ks: f.readline()
for at in range(0,keys,100): send(range(at,at+100))
print('loaded',flush=True)
r=random.Random(2); start=time.time(); n=0
while True:
    send([r.randrange(keys) for _ in range(25)]); n+=25
    d=start+n/rate-time.time()
    if d>0: time.sleep(d)
