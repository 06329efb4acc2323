import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

/** Calls with the JDK's client as it comes, which offers an upgrade to HTTP/2: java Caller.java ADDRESS RECORD. */
public class Caller {
    public static void main(String[] arguments) throws Exception {
        String address = arguments[0];
        String body = "{\"features\": " + arguments[1] + "}";
        HttpClient client = HttpClient.newHttpClient();
        for (int i = 0; i < 5; i++) {
            say("predict", client, post(address).POST(BodyPublishers.ofString(body)));
        }
        var unknownLength = BodyPublishers.fromPublisher(BodyPublishers.ofString(body));
        say("chunked", client, post(address).POST(unknownLength));
        say("get", client, HttpRequest.newBuilder(URI.create(address + "/health")));
        say("large", client, post(address).POST(BodyPublishers.ofByteArray(new byte[30_000_000])));
        say("after", client, post(address).POST(BodyPublishers.ofString(body)));
    }

    private static HttpRequest.Builder post(String address) {
        return HttpRequest.newBuilder(URI.create(address + "/predict")).header("Content-Type", "application/json");
    }

    private static void say(String what, HttpClient client, HttpRequest.Builder request) throws Exception {
        System.out.println(what + " " + client.send(request.build(), BodyHandlers.ofString()).statusCode());
    }
}
