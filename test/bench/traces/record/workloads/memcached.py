# memcached.py PORT KEYS RATE: fills a memcached, then sets keys chosen by Zipf's law at a steady rate.
import bisect,itertools,random,socket,sys,time
port,keys,rate=int(sys.argv[1]),int(sys.argv[2]),int(sys.argv[3])
s=socket.create_connection(('127.0.0.1',port)); f=s.makefile('rb')
v=[random.randbytes(n) for n in (100,300,700,1500)]
def put(k):
    x=v[k%4]; return b'set k%d 0 0 %d noreply\r\n%s\r\n'%(k,len(x),x)
for at in range(0,keys,100):
    s.sendall(b''.join(put(k) for k in range(at,at+100)))
s.sendall(b'version\r\n'); f.readline(); print('loaded',flush=True)
r=random.Random(2); start=time.time(); n=0
w=list(itertools.accumulate(1/(i+1)**0.9 for i in range(keys))); top=w[-1]
order=list(range(keys)); r.shuffle(order)
while True:
    b=[]
    for _ in range(50):
        k=order[min(keys-1,bisect.bisect(w,r.random()*top))]; b.append(put(k))
    b.append(b'version\r\n'); s.sendall(b''.join(b)); f.readline(); n+=50
    d=start+n/rate-time.time()
    if d>0: time.sleep(d)
