import java.util.*;
// A service that answers from a cache: each request makes garbage, reads some entries and replaces one.
public class Load {
  public static void main(String[] a) throws Exception {
    int entries = 150_000, perSecond = Integer.parseInt(a[0]);
    Map<Integer, byte[]> cache = new HashMap<>();
    Random r = new Random(1);
    for (int i = 0; i < entries; i++) cache.put(i, new byte[1024]);
    long sum = 0;
    long start = System.nanoTime();
    for (long n = 0; ; n++) {
      StringBuilder b = new StringBuilder();
      for (int i = 0; i < 20; i++) b.append(cache.get(r.nextInt(entries))[i]).append(new String(new char[200]));
      sum += b.toString().hashCode();
      if (n % 4 == 0) cache.put(r.nextInt(entries), new byte[1024]);
      long due = start + n * 1_000_000_000L / perSecond;
      long ahead = due - System.nanoTime();
      if (ahead > 2_000_000) Thread.sleep(ahead / 1_000_000);
      if (n == 5L * perSecond) System.out.println("warm " + sum);
    }
  }
}
