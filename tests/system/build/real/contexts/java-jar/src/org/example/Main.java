package org.example;

public final class Main {
    public static void main(String[] arguments) {
        System.out.println(Greeting.to(arguments.length > 0 ? arguments[0] : "nobody"));
    }
}
